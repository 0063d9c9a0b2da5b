"""The folder of collected frames: within its budget, whole after any damage, one writer."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from roadshift.runtime import atomic
from roadshift.runtime.collecting import store as module
from roadshift.runtime.collecting.appearance import LENGTH
from roadshift.runtime.collecting.frame_files import KeptFrame, drive_name, frame_name
from roadshift.runtime.collecting.store import INDEX, FrameStore, read_store
from roadshift.runtime.errors import ConfigError, OutputError

DRIVE = drive_name(1, datetime(2030, 1, 1, tzinfo=timezone.utc))
BUDGET = 1_000_000


def put(store: FrameStore, number: int) -> bool:
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (96, 128, 3), np.uint8)
    vector = rng.normal(0, 1, LENGTH).astype(np.float32)
    name = frame_name(DRIVE, number / 10)
    return store.put(image, KeptFrame(name, 0, number / 10, 1.0, vector, {0: 1.0}))


def on_disk(folder: Path) -> int:
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(folder))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.jpg")}


def test_the_folder_never_exceeds_its_budget_and_says_what_it_holds(tmp_path: Path) -> None:
    with FrameStore(tmp_path, BUDGET) as store:
        for number in range(120):
            assert put(store, number)
            assert on_disk(tmp_path) <= store.used <= BUDGET
            if number % 10 == 0:
                store.write_index()
        assert set(store.frames) == names(tmp_path)
        assert 20 < len(store.frames) < 120
    assert on_disk(tmp_path) <= BUDGET


def damaged_index(folder: Path, how: str) -> None:
    index = folder / INDEX
    data = index.read_bytes()
    if how == "missing":
        index.unlink()
    elif how == "cut":
        index.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        index.write_bytes(b"")
    elif how == "noise":
        index.write_bytes(os.urandom(len(data)))
    elif how == "numbers":
        index.write_bytes(b"[1]\n" + b"7\n" * 20)
    elif how == "wrong sizes":
        index.write_bytes(data.replace(b'"size":', b'"size":1'))


@pytest.mark.parametrize("how", ["missing", "cut", "empty", "noise", "numbers", "wrong sizes"])
def test_an_index_that_is_damaged_is_made_again_from_the_files(tmp_path: Path, how: str) -> None:
    with FrameStore(tmp_path, BUDGET) as store:
        for number in range(12):
            put(store, number)
        before = {name: frame.record() for name, frame in store.frames.items()}
    damaged_index(tmp_path, how)
    with FrameStore(tmp_path, BUDGET) as store:
        assert {name: frame.record() for name, frame in store.frames.items()} == before
        assert store.next_drive == 2


def test_files_that_were_cut_and_unfinished_ones_are_removed_and_others_stay(
    tmp_path: Path,
) -> None:
    with FrameStore(tmp_path, BUDGET) as store:
        for number in range(6):
            put(store, number)
    first, second = sorted(names(tmp_path))[:2]
    (tmp_path / first).write_bytes((tmp_path / first).read_bytes()[:-100])
    (tmp_path / second).unlink()
    (tmp_path / ".collect.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    said: list[str] = []
    with FrameStore(tmp_path, BUDGET, note=said.append) as store:
        assert set(store.frames) == names(tmp_path)
        assert len(store.frames) == 4
    assert said == [f"{tmp_path}: removed 1 file that had been cut short"]
    assert (tmp_path / "notes.txt").exists()
    assert not (tmp_path / ".collect.part").exists()


def test_a_smaller_budget_takes_frames_out(tmp_path: Path) -> None:
    with FrameStore(tmp_path, 2 * BUDGET) as store:
        for number in range(100):
            put(store, number)
        most = len(store.frames)
    with FrameStore(tmp_path, BUDGET) as store:
        assert 0 < len(store.frames) < most
        assert set(store.frames) == names(tmp_path)
    assert on_disk(tmp_path) <= BUDGET


def test_two_collectors_in_one_folder_are_refused(tmp_path: Path) -> None:
    with FrameStore(tmp_path, BUDGET), pytest.raises(OutputError, match="another run"):
        FrameStore(tmp_path, BUDGET)
    FrameStore(tmp_path, BUDGET).close()


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(OutputError, match=r"holiday\.jpg.*give a new or an empty folder"):
        FrameStore(tmp_path, BUDGET)
    assert os.listdir(tmp_path) == ["holiday.jpg"]


def test_a_budget_for_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="budget"):
        FrameStore(tmp_path / "new", 100)
    assert not (tmp_path / "new").exists()


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, limit: int) -> Iterator[None]:
    """A disk on which the folder can have ``limit`` bytes, and not one more."""
    real = atomic.replacing

    @contextmanager
    def replacing(path: Path, temporary: str) -> Iterator[object]:
        with real(path, temporary) as file:
            yield file
            file.flush()
            if on_disk(path.parent) > limit:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module, "replacing", replacing)
        yield


def test_on_a_full_disk_frames_take_the_place_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FrameStore(tmp_path, BUDGET) as store:
        with full_disk(monkeypatch, 300_000):
            kept = [put(store, number) for number in range(40)]
            assert all(kept)
            assert on_disk(tmp_path) <= 300_000
            assert not list(tmp_path.glob("*.part"))
            assert set(store.frames) == names(tmp_path)
            written = store.write_index()
        assert not written or (tmp_path / INDEX).exists()
        assert put(store, 50)
    frames, _, cut = read_store(tmp_path)
    assert ({frame.name for frame in frames}, cut) == (names(tmp_path), [])


def test_on_a_disk_without_any_room_nothing_is_kept_and_nothing_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FrameStore(tmp_path, BUDGET) as store, full_disk(monkeypatch, 0):
        assert not put(store, 1)
        assert not store.write_index()
    assert names(tmp_path) == set()


def test_while_too_little_of_the_disk_is_free_the_folder_does_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = list(os.statvfs(tmp_path))
    monkeypatch.setattr(module.os, "statvfs", lambda _: os.statvfs_result(fields))
    with FrameStore(tmp_path, BUDGET, keep_free=0.1) as store:
        fields[4] = fields[2] // 2  # f_bavail of f_blocks
        for number in range(5):
            put(store, number)
        used = on_disk(tmp_path)
        fields[4] = fields[2] // 20
        assert put(store, 6)
        assert on_disk(tmp_path) <= used + 8192
        assert set(store.frames) == names(tmp_path)
        assert "in the place of others alone; free some of it, or give a smaller" in store.shortage
    with FrameStore(tmp_path / "new", BUDGET, keep_free=0.1) as store:
        assert "less than 10% of the disk is free, and no frame is kept until" in store.shortage
        monkeypatch.delattr(module, "encode_frame")  # a frame for which there is no room costs none
        assert not put(store, 7)


def test_a_folder_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def broken(*_: object) -> Iterator[object]:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        yield

    store = FrameStore(tmp_path, BUDGET)
    with monkeypatch.context() as patch:
        patch.setattr(module, "replacing", broken)
        with pytest.raises(OutputError, match="cannot write here"):
            put(store, 1)
    store.close()
