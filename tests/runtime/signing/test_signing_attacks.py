"""Attacks on what is trusted: levers, replays, races, floods, and folders that lead elsewhere."""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fleets import HEALTHY
from roadshift.runtime.bundle import Bundle, open_bundle
from roadshift.runtime.errors import ConfigError, SignatureError
from roadshift.runtime.signing import (
    PrivateKey,
    create_trust,
    generate_key,
    load_private_key,
    open_trust,
    sign_bundle,
    update_trust,
    verify_bundle,
)
from roadshift.runtime.signing.envelope import parse_envelope, signed
from roadshift.runtime.signing.statement import StatementError, parse_statement
from roadshift.runtime.signing.trust import Trust
from roadshift.runtime.signing.trust_updates import Changes, changed, propose
from roadshift.runtime.slots import commit, create_slots, install, try_model
from signed_bundles import adapted_from, small_bundle

Keys = Callable[[str], PrivateKey]


@pytest.fixture
def key(tmp_path: Path) -> Keys:
    def make(name: str) -> PrivateKey:
        path = tmp_path / f"{name}.key"
        if not path.exists():
            generate_key(path)
        return load_private_key(path)

    return make


def trusting(folder: Path, maker: PrivateKey, *garages: PrivateKey, threshold: int = 1) -> Trust:
    return create_trust(
        folder / "trust",
        {"maker": maker.public},
        {f"garage{i}": one.public for i, one in enumerate(garages)},
        garage_threshold=threshold,
    )


def test_a_garage_cannot_lock_a_maker_out_by_a_high_version(tmp_path: Path, key: Keys) -> None:
    maker, rogue, other = key("maker"), key("rogue"), key("other")
    trust = trusting(tmp_path, maker, rogue, other)
    store = create_slots(tmp_path / "slots")

    def put(bundle: Bundle, now: Trust = trust) -> None:
        install(store, bundle.path, now)
        try_model(store, now)
        commit(store, HEALTHY)

    source = small_bundle(tmp_path / "source", 1, self_test=True)
    sign_bundle(source, maker, version=7)
    put(source)
    locking = small_bundle(tmp_path / "locking", 2, source.hash, self_test=True)
    sign_bundle(locking, rogue, "garage", parent=source, version=(1 << 53) - 1)
    put(locking)
    honest = small_bundle(tmp_path / "honest", 3, source.hash, self_test=True)
    sign_bundle(honest, other, "garage", parent=source, version=9)
    with pytest.raises(SignatureError, match="nothing before 9007199254740992 is accepted of a g"):
        install(store, honest.path, trust)
    without = Trust(trust.path, changed(trust, Changes(revoke_keys={rogue.public.id: "rogue"})))
    newer = small_bundle(tmp_path / "newer", 4, self_test=True)
    sign_bundle(newer, maker, version=8)
    put(newer)  # the maker's numbers are its own
    put(honest, without)  # and once the rogue's key is revoked, so is its version
    older = small_bundle(tmp_path / "older", 5, self_test=True)
    sign_bundle(older, maker, version=7)
    with pytest.raises(SignatureError, match="has version 7, and nothing before 9 is accepted"):
        install(store, older.path, trust)


def test_a_model_of_an_old_version_does_not_come_in_as_a_garages(tmp_path: Path, key: Keys) -> None:
    maker, garage = key("maker"), key("garage")
    trust = trusting(tmp_path, maker, garage)
    source = small_bundle(tmp_path / "source")
    sign_bundle(source, maker, version=3)
    adapted = adapted_from(source, tmp_path / "adapted")
    sign_bundle(adapted, garage, "garage", parent=source, version=1000)
    assert verify_bundle(open_bundle(adapted.path), trust).maker_version == 3
    newer = Trust(trust.path, changed(trust, Changes(minimum_version=5)))
    with pytest.raises(SignatureError, match="was adapted from version 3 of its maker's model"):
        verify_bundle(open_bundle(adapted.path), newer)


def test_garages_that_name_different_parents_lead_to_no_maker(tmp_path: Path, key: Keys) -> None:
    maker, one, two = key("maker"), key("one"), key("two")
    trust = trusting(tmp_path, maker, one, two, threshold=2)
    source = small_bundle(tmp_path / "source")
    sign_bundle(source, maker)
    middle = adapted_from(source, tmp_path / "middle")
    for garage in (one, two):
        path = sign_bundle(middle, garage, "garage", parent=source, version=2)
    statement = parse_statement(parse_envelope(path.read_bytes()).payload)
    path.write_bytes(signed(replace(statement, parent="0" * 64).payload(), two).to_bytes())
    last = adapted_from(middle, tmp_path / "last")
    for garage in (one, two):
        sign_bundle(last, garage, "garage", parent=open_bundle(middle.path), version=3)
    with pytest.raises(SignatureError, match="no maker signed the model that it was adapted"):
        verify_bundle(open_bundle(last.path), trust)


def test_versions_that_no_program_can_hold_are_refused(tmp_path: Path, key: Keys) -> None:
    maker, bundle = key("maker"), small_bundle(tmp_path / "b")
    for version in (-1, 1 << 53, 1 << 70):
        with pytest.raises(ConfigError, match="must be from 0 to 9007199254740991"):
            sign_bundle(bundle, maker, version=version)
    path = sign_bundle(bundle, maker, version=1)
    statement = parse_statement(parse_envelope(path.read_bytes()).payload)
    for version in (-1, 1 << 53):
        with pytest.raises(StatementError, match="its version is not from 0"):
            parse_statement(replace(statement, version=version).payload())


def test_a_version_that_a_stranger_left_is_not_taken_over_unsaid(tmp_path: Path, key: Keys) -> None:
    bundle = small_bundle(tmp_path / "b")
    sign_bundle(bundle, key("stranger"), version=1 << 52)
    with pytest.raises(ConfigError, match="its signatures say version 4503599627370496"):
        sign_bundle(bundle, key("maker"))
    sign_bundle(bundle, key("maker"), version=5)


def test_no_update_is_the_last_one_for_ever(tmp_path: Path, key: Keys) -> None:
    maker = key("maker")
    trust = trusting(tmp_path, maker)
    for version, passes in ((1 << 60, False), (1002, False), (1001, True)):
        document = trust.document.model_copy(update={"version": version})
        if passes:
            update_trust(trust.path, propose(document, [maker]))
            continue
        with pytest.raises(SignatureError, match="more than 1000 versions are never skipped"):
            update_trust(trust.path, propose(document, [maker]))
    assert open_trust(trust.path).document.version == 1001


def test_of_two_updates_at_once_the_newer_one_stays(
    tmp_path: Path, key: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = key("maker")
    trust = trusting(tmp_path, maker)
    updates = [
        propose(trust.document.model_copy(update={"version": version}), [maker])
        for version in (2, 3)
    ]
    read, go = threading.Event(), threading.Event()
    from roadshift.runtime.signing import trust_updates

    def slow(folder: Path) -> Trust:
        found = open_trust(folder)
        if threading.current_thread() is first:
            read.set()
            go.wait(0.5)
        return found

    monkeypatch.setattr(trust_updates, "open_trust", slow)
    first = threading.Thread(target=update_trust, args=(trust.path, updates[0]))
    first.start()
    read.wait()
    update_trust(trust.path, updates[1])
    go.set()
    first.join()
    assert open_trust(trust.path).document.version == 3


def test_a_flood_of_files_is_refused_before_it_is_read(tmp_path: Path, key: Keys) -> None:
    maker = key("maker")
    trust = trusting(tmp_path, maker)
    bundle = small_bundle(tmp_path / "b")
    sign_bundle(bundle, maker)
    for folder in ("signatures/parents", "signatures", "."):
        below = bundle.path / folder
        below.mkdir(exist_ok=True)
        for number in range(200):
            (below / f"n{number}").touch()
        with pytest.raises(SignatureError, match=r"holds more than \d+ files"):
            verify_bundle(open_bundle(bundle.path), trust)
        for number in range(200):
            (below / f"n{number}").unlink()
    verify_bundle(open_bundle(bundle.path), trust)


def test_a_folder_of_signatures_that_leads_elsewhere_is_refused(tmp_path: Path, key: Keys) -> None:
    maker = key("maker")
    trust = trusting(tmp_path, maker)
    bundle = small_bundle(tmp_path / "b")
    sign_bundle(bundle, maker)
    os.rename(bundle.path / "signatures", tmp_path / "elsewhere")
    (bundle.path / "signatures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SignatureError, match="signatures: is no folder"):
        verify_bundle(open_bundle(bundle.path), trust)
    with pytest.raises(SignatureError, match="signatures: is no folder"):
        sign_bundle(bundle, maker)
