"""A model in a slot gets newer signatures: after one expired, and from another key."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from fleets import HEALTHY, Fleet
from roadshift.runtime.bundle import Bundle, open_bundle
from roadshift.runtime.engines import Engine, open_engine
from roadshift.runtime.errors import BundleError, SignatureError, SlotError
from roadshift.runtime.signing import (
    create_trust,
    generate_key,
    load_private_key,
    sign_bundle,
    verify_bundle,
)
from roadshift.runtime.slots import commit, install, roll_back, start_of_run, try_model, whole
from roadshift.runtime.slots.serving import SlotEngine

SOON = timedelta(days=2)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def later(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Move the clock that the slots see."""
    clock = type(fleet.store).now
    monkeypatch.setattr(type(fleet.store), "now", lambda store, state: clock(store, state) + by)


def test_the_one_model_runs_on_after_its_signature_was_renewed(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = datetime.now(timezone.utc) + SOON
    model = fleet.model(1)
    sign_bundle(model, fleet.key, version=1, expires=ends)
    install(fleet.store, model.path, fleet.trust)
    try_model(fleet.store, fleet.trust)
    commit(fleet.store, HEALTHY)
    later(fleet, monkeypatch, 2 * SOON)
    with pytest.raises(SignatureError, match="expired"):
        start_of_run(fleet.store, fleet.trust)
    fleet.signed_again(1, 2)
    notes = list[str]()
    renewed = install(fleet.store, model.path, fleet.trust, note=notes.append)
    assert (renewed.hash, renewed.version, renewed.condition) == (model.hash, 2, "good")
    assert notes == [f"{model.path}: is in slot a already; it has these signatures now."]
    start = start_of_run(fleet.store, fleet.trust)
    assert start.active is not None
    assert start.active.hash == model.hash
    state = fleet.store.state()
    assert state.floor == 2
    folder = fleet.store.folder(renewed.folder)
    assert [path.name for path in folder.parent.glob("[!.]*")] == [folder.name]
    assert fleet.events() == ["created", "installed", "tried", "committed", "renewed"]


def test_a_key_is_exchanged_for_another(fleet: Fleet, tmp_path: Path) -> None:
    model = fleet.running(1)
    generate_key(tmp_path / "next.key")
    fresh = load_private_key(tmp_path / "next.key")
    trust = create_trust(tmp_path / "next", {"maker": fresh.public})
    with pytest.raises(SignatureError):
        start_of_run(fleet.store, trust)
    for path in (model.path / "signatures").iterdir():
        path.unlink()
    sign_bundle(model, fresh, version=1)  # the same version: it is the same model
    before = fleet.store.state().slots["a"].signers
    assert install(fleet.store, model.path, trust).signers != before
    active = start_of_run(fleet.store, trust).active
    assert active is not None
    assert verify_bundle(active, trust).version == 1


def test_a_signature_that_is_older_or_the_same_changes_nothing(fleet: Fleet) -> None:
    fleet.running(1)
    second = fleet.running(2)
    before = fleet.store.state()
    with pytest.raises(SlotError, match="is in slot b already, with these signatures"):
        install(fleet.store, second.path, fleet.trust)
    fleet.signed_again(2, 1)
    with pytest.raises(SignatureError, match="signed as version 1, and in slot b as 2"):
        install(fleet.store, second.path, fleet.trust)
    state = fleet.store.state()
    assert (state.slots, state.floor) == (before.slots, before.floor)
    assert fleet.events()[-2:] == ["refused", "refused"]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("damage", ["flipped", "removed", "unsigned", "beside", "another"])
def test_a_damaged_model_is_made_whole_by_its_bundle(
    fleet: Fleet, damage: str, again: bool
) -> None:
    model = fleet.running(1)
    folder = fleet.store.folder(model.hash)
    path = folder / "model.onnx"
    if damage == "flipped":
        path.write_bytes(b"x" + path.read_bytes()[1:])
    elif damage == "removed":
        path.unlink()
    elif damage == "unsigned":
        shutil.rmtree(folder / "signatures")
    elif damage == "beside":
        (folder / "more").write_bytes(b"")
    else:
        shutil.rmtree(folder)
        shutil.copytree(fleet.model(9).path, folder)
    with pytest.raises((BundleError, SignatureError)):
        start_of_run(fleet.store, fleet.trust)
    notes = list[str]()
    there = install(fleet.store, model.path, fleet.trust, again=again, note=notes.append)
    assert (there.hash, there.version, there.condition) == (model.hash, 1, "good")
    assert damage == "unsigned" or "it was damaged, and is whole now" in notes[0]
    active = start_of_run(fleet.store, fleet.trust).active
    assert active is not None
    assert active.hash == model.hash
    *_, last = fleet.store.audit()
    assert last.event == "renewed"
    assert damage == "unsigned" or "damage" in last.details


def test_the_model_to_go_back_to_is_renewed_without_raising_what_runs(fleet: Fleet) -> None:
    first = fleet.running(1)
    fleet.running(2)
    fleet.signed_again(1, 7)
    install(fleet.store, first.path, fleet.trust)
    assert (fleet.store.state().floor, fleet.store.state().active) == (2, "b")
    assert roll_back(fleet.store, "by hand").active == "a"
    active = start_of_run(fleet.store, fleet.trust).active
    assert active is not None
    assert active.hash == first.hash
    fleet.signed_again(1, 8)  # once more
    assert install(fleet.store, first.path, fleet.trust).renewals == 2


def test_nothing_is_renewed_during_a_trial(fleet: Fleet) -> None:
    first = fleet.running(1)
    fleet.installed(2)
    try_model(fleet.store, fleet.trust)
    fleet.signed_again(1, 3)
    with pytest.raises(SlotError, match="is being tried; commit it or roll it back first"):
        install(fleet.store, first.path, fleet.trust)


def test_a_run_serves_on_while_its_model_is_renewed(fleet: Fleet) -> None:
    model = fleet.running(1)
    frame = np.zeros((1, 16, 32, 3), np.uint8)
    with SlotEngine(fleet.store, fleet.trust) as engine:
        before = engine.infer(frame)
        serving = engine._serving
        fleet.signed_again(1, 2)
        install(fleet.store, model.path, fleet.trust)
        for _ in range(1000):
            if engine._generation == fleet.store.state().generation:
                break
            engine.infer(frame)
        assert engine._serving is serving
        np.testing.assert_array_equal(engine.infer(frame), before)
    assert "swapped" not in fleet.events()


def test_what_is_not_trusted_renews_nothing(fleet: Fleet, tmp_path: Path) -> None:
    model = fleet.running(1)
    generate_key(tmp_path / "foreign.key")
    for path in (model.path / "signatures").iterdir():
        path.unlink()
    sign_bundle(model, load_private_key(tmp_path / "foreign.key"), version=9)
    with pytest.raises(SignatureError):
        install(fleet.store, model.path, fleet.trust)
    folder = fleet.store.folder(fleet.store.state().slots["a"].folder)
    assert verify_bundle(open_bundle(folder), fleet.trust).version == 1


def test_a_model_that_waits_for_its_trial_is_installed_once_more(fleet: Fleet) -> None:
    fleet.running(1)
    second = fleet.installed(2)
    before, notes = fleet.store.state(), list[str]()
    again = install(fleet.store, second.path, fleet.trust, note=notes.append)
    assert again == before.slots["b"]
    said = "is in slot b already, with these signatures; nothing was changed."
    assert notes == [f"{second.path}: {said}"]
    assert fleet.store.state() == before
    assert try_model(fleet.store, fleet.trust, model=second.hash).trial is not None


def test_what_runs_or_is_tried_is_installed_again_by_an_updater_alone(fleet: Fleet) -> None:
    first = fleet.running(1)
    second = fleet.installed(2)
    try_model(fleet.store, fleet.trust)
    with pytest.raises(SlotError, match="is being tried; commit it or roll it back first"):
        install(fleet.store, second.path, fleet.trust)
    before = fleet.store.state()
    install(fleet.store, second.path, fleet.trust, again=True)
    assert try_model(fleet.store, fleet.trust, model=second.hash) == before
    commit(fleet.store, HEALTHY)
    with pytest.raises(SlotError, match="is in slot b already, with these signatures"):
        install(fleet.store, second.path, fleet.trust)
    before = fleet.store.state()
    install(fleet.store, second.path, fleet.trust, again=True)
    assert try_model(fleet.store, fleet.trust, model=second.hash).trial is None, "not the first"
    assert fleet.store.state() == before
    with pytest.raises(SlotError, match="is in slot a already, with these signatures"):
        install(fleet.store, first.path, fleet.trust, again=True)
    with pytest.raises(SlotError, match="holds another model meanwhile; install a model first"):
        try_model(fleet.store, fleet.trust, model="0" * 64)


@pytest.mark.parametrize("moment", ["before it is verified", "before it is opened"])
@pytest.mark.parametrize("models", [1, 2])
def test_a_run_that_starts_meanwhile_runs_what_was_renewed(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, moment: str, models: int
) -> None:
    for version in range(1, models + 1):
        model = fleet.running(version)
    fleet.signed_again(models, models + 1)
    left = [model.path]

    def renew() -> None:
        while left:
            install(fleet.store, left.pop(), fleet.trust)

    def opened(bundle: Bundle) -> Engine:
        renew()
        return open_engine(bundle)

    def verified(path: Path) -> Bundle:
        renew()
        return open_bundle(path)

    if moment == "before it is verified":
        monkeypatch.setattr(whole, "open_bundle", verified)
    notes = list[str]()
    with SlotEngine(fleet.store, fleet.trust, open_with=opened, note=notes.append) as engine:
        assert engine._serving.hash == model.hash
    state = fleet.store.state()
    active = state.model(state.active)
    assert active is not None
    assert (active.hash, active.condition, active.renewals) == (model.hash, "good", 1)
    assert notes == []
