"""Files of slots and packed bundles when they are odd, edited by hand, huge, or exchanged."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from fleets import Fleet, StandInPlans
from roadshift.runtime.bundle import open_bundle
from roadshift.runtime.bundle.packed import pack, unpacked
from roadshift.runtime.errors import BundleError, OutputError, RoadshiftError, SlotError
from roadshift.runtime.signing.statement import moment_of
from roadshift.runtime.slots import (
    build_plans,
    install,
    open_slots,
    roll_back,
    start_of_run,
    try_model,
)
from roadshift.runtime.slots.audit import hash_of, new_record, record_line
from roadshift.runtime.slots.changes import set_clock
from roadshift.runtime.slots.install import copy_bundle


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_names_that_are_no_utf8_do_not_make_the_state_unreadable(fleet: Fleet) -> None:
    fleet.running(1)
    odd = fleet.folder / "usb\udcff"
    odd.mkdir()
    old = shutil.copytree(fleet.folder / "v1", odd / "v1")
    with pytest.raises(RoadshiftError, match="is in slot a already"):
        install(fleet.store, old, fleet.trust)
    details = fleet.store.state().record["details"]
    assert isinstance(details, dict)
    assert str(details["source"]).endswith("usb\\xff/v1")
    fleet.running(2)
    roll_back(fleet.store, "brakes for \udcfe")
    assert open_slots(fleet.store.path).state().slots["b"].reason == "brakes for \\xfe"
    fleet.store.audit()


@pytest.mark.parametrize(
    "edit",
    [
        {"latest": "yesterday"},
        {"record": {}},
        {"record": {"n": "0", "at": "", "event": "", "details": {}, "previous": ""}},
        {"generation": -1},
        {"active": "c"},
        {"slots": {"a": {"hash": "../../etc"}}},
    ],
    ids=str,
)
def test_a_state_edited_by_hand_is_a_sentence(fleet: Fleet, edit: dict[str, Any]) -> None:
    fleet.running(1)
    path = fleet.store.path / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    for use in (fleet.store.state, fleet.store.audit, lambda: roll_back(fleet.store, "")):
        with pytest.raises(SlotError, match=r"state\.json: invalid at"):
            use()


def test_a_state_edited_to_lower_its_floor_shows_in_the_audit(fleet: Fleet) -> None:
    fleet.running(5)
    fleet.store.audit()
    path = fleet.store.path / "state.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps({**good, "floor": 0}))
    with pytest.raises(SlotError, match="was changed by something else than roadshift"):
        fleet.store.audit()
    path.write_text(json.dumps(good))
    fleet.store.audit()
    del good["record"]["state"]  # as an earlier version wrote it
    path.write_text(json.dumps(good))
    assert fleet.store.state().floor == 5


@pytest.mark.parametrize("digest", ["left", "edited"])
def test_no_change_makes_an_edited_state_good(fleet: Fleet, digest: str) -> None:
    old = fleet.running(1)
    fleet.running(2)
    running = fleet.running(5)
    path = fleet.store.path / "state.json"
    good = path.read_bytes()
    edited = fleet.store.state().model_copy(update={"floor": 0})
    if digest == "edited":
        record = {**edited.record, "state": edited.digest()}
        edited = edited.model_copy(update={"record": record})
    path.write_bytes(edited.to_bytes())
    said = "was changed by something else|was changed or cut by someone else"
    for change in (
        lambda: install(fleet.store, old.path, fleet.trust),
        lambda: set_clock(fleet.store, "by hand"),
        lambda: try_model(fleet.store, fleet.trust),
        lambda: roll_back(fleet.store, "by hand"),
        lambda: build_plans(fleet.store, fleet.trust, StandInPlans()),
    ):
        with pytest.raises(SlotError, match=said):
            change()
        assert path.read_bytes() == edited.to_bytes()
    with pytest.raises(SlotError):
        fleet.store.audit()
    notes = list[str]()
    active = start_of_run(fleet.store, fleet.trust, note=notes.append).active
    assert active is not None
    assert active.hash == running.hash
    assert any(note.endswith("The model that runs goes on; nothing is tried.") for note in notes)
    path.write_bytes(good)
    set_clock(fleet.store, "by hand")
    fleet.store.audit()


def test_a_huge_audit_file_is_checked_in_little_memory(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fleet.store.path / "audit.jsonl"
    state, lines = fleet.store.state(), [path.read_bytes()]
    record = dict(state.record)
    for _ in range(2000):
        record = new_record(
            *(record, "swapped", {"hash": "0" * 64}, moment_of(state.latest), state.digest())
        )
        lines.append(record_line(record) + b"\n")
    path.write_bytes(b"".join(lines))
    whole = state.model_copy(update={"record": record})
    (fleet.store.path / "state.json").write_bytes(whole.to_bytes())
    last = fleet.store.audit(3)
    assert [one.number for one in last] == [1998, 1999, 2000]
    assert last[-1].hash == hash_of(record_line(record))
    reads = list[int]()
    real = os.pread

    def counting(descriptor: int, length: int, offset: int) -> bytes:
        reads.append(length)
        return real(descriptor, length, offset)

    monkeypatch.setattr("os.pread", counting)
    monkeypatch.setattr("roadshift.runtime.slots.audit._LONGEST", 1000)
    with fleet.store.changing() as now:
        fleet.store.change(now, "swapped", {})
    assert sum(reads) < 10_000, "appending reads the end alone"
    assert len(fleet.store.audit()) == 2002
    path.write_bytes(path.read_bytes() + b"x" * 5000)  # a line that never ends
    with pytest.raises(SlotError, match="line 2003 does not follow"):
        fleet.store.audit()


def test_a_change_meanwhile_is_no_damage_and_a_line_of_ones_own_is(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.running(1)
    fleet.installed(2)
    before = fleet.store.state()
    real = type(fleet.store).state
    states = iter([before])

    def old_first(store: Any) -> Any:
        return next(states, None) or real(store)

    with fleet.store.changing() as state:
        fleet.store.change(state, "swapped", {})
    monkeypatch.setattr(type(fleet.store), "state", old_first)
    assert fleet.store.audit()[-1].event == "swapped"
    monkeypatch.undo()
    path = fleet.store.path / "audit.jsonl"
    forged = new_record(dict(fleet.store.state().record), "committed", {}, moment_of(state.latest))
    path.write_bytes(path.read_bytes() + record_line(forged) + b"\n")
    with pytest.raises(SlotError, match="does not end with the last change"):
        fleet.store.audit()


def test_a_source_that_is_exchanged_while_it_is_copied_brings_nothing_in(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.running(1)
    good = fleet.model(2)
    (fleet.folder / "big").mkdir()
    for number in range(100):
        (fleet.folder / "big" / f"{number}").write_bytes(b"x")

    def links(folder: Path) -> None:
        os.rename(folder / "signatures", folder.parent / "moved")
        (folder / "signatures").symlink_to(fleet.folder / "big")

    def device(folder: Path) -> None:
        (signature,) = (folder / "signatures").iterdir()
        signature.unlink()
        signature.symlink_to("/dev/zero")

    def model(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(bytes((folder / "model.onnx").stat().st_size))

    def all_of_it(folder: Path) -> None:
        shutil.rmtree(folder)
        shutil.copytree(fleet.folder / "v1", folder)

    for number, exchange in enumerate((links, device, model, all_of_it)):
        folder = shutil.copytree(good.path, fleet.folder / f"c{number}" / "bundle")

        def exchanged(bundle: Any, to: Path, exchange: Any = exchange) -> None:
            exchange(bundle.path)
            copy_bundle(bundle, to)

        monkeypatch.setitem(install.__globals__, "copy_bundle", exchanged)
        with pytest.raises(RoadshiftError):
            install(fleet.store, folder, fleet.trust)
        assert set(fleet.store.state().slots) == {"a"}


def entries(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 1
            archive.addfile(entry, io.BytesIO(b"x"))
    return path


def test_packed_bundles_of_odd_names_are_sentences_and_leave_nothing(fleet: Fleet) -> None:
    packed = pack(fleet.model(1), fleet.folder / "...roadshift")
    with unpacked(packed, beside=fleet.store.path) as folder:
        assert open_bundle(folder).hash
    for names, sentence in {
        ("a", "a"): "no packed bundle",
        ("a/b", "a"): "no packed bundle",
        ("a\udcff", "a\udcff"): "no packed bundle",
        ("./a", "a"): "no plain file",
        ("a//b",): "no plain file",
        ("a", "a/b"): "within itself",
    }.items():
        path = entries(fleet.folder / "odd.roadshift", *names)
        with (
            pytest.raises(BundleError, match=sentence),
            unpacked(path, beside=fleet.store.path),
        ):
            pass
    with pytest.raises(OutputError, match="not an existing folder"), unpacked(path, path / "no"):
        pass
    assert not list(fleet.store.path.glob(".unpacked*"))


def test_a_broken_off_packing_leaves_no_part(fleet: Fleet) -> None:
    bundle = fleet.model(1)
    (bundle.path / "self-test.npz").write_bytes(b"")
    out = fleet.folder / "out"
    out.mkdir()
    with pytest.raises(BundleError):
        pack(bundle, out / "m.roadshift")
    assert not list(out.iterdir())
    other = fleet.model(2)
    manifest = other.path / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(BundleError, match="was changed meanwhile"):
        pack(other, out / "m.roadshift")
    third = fleet.model(3)
    os.rename(third.path / "signatures", fleet.folder / "moved")
    (third.path / "signatures").symlink_to("/etc")
    with pytest.raises(BundleError, match="is a symbolic link"):
        pack(third, out / "m.roadshift")
