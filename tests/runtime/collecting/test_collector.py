"""The choice frame by frame, beside an engine and alone."""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from night_scenes import night_scene
from roadshift.runtime.collecting import store as store_module
from roadshift.runtime.collecting.collector import Collector
from roadshift.runtime.collecting.cpu_share import BURST_S, CpuShare
from roadshift.runtime.collecting.interest import Interest
from roadshift.runtime.collecting.store import FrameStore
from roadshift.runtime.errors import OutputError
from roadshift.runtime.frames import Frame, open_frames

BUDGET = 3_000_000


@cache
def places() -> list[np.ndarray]:
    """Eight, 640x320."""
    return [night_scene(seed).repeat(2, 0).repeat(2, 1) for seed in range(8)]


def frame(image: np.ndarray, seconds: float = 0.0) -> Frame:
    return Frame(image, "x", round(seconds * 1e9))


def collector(folder: Path, budget: int = BUDGET) -> Collector:
    return Collector(FrameStore(folder, budget))


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.jpg"))


def test_each_place_is_kept_once_and_what_teaches_nothing_is_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    black = rng.integers(0, 10, places()[0].shape, np.uint8)
    blurred = np.asarray(cv2.GaussianBlur(places()[1], (0, 0), 6), np.uint8)
    standing = [
        np.clip(places()[2] + rng.normal(0, 4, places()[2].shape), 0, 255) for _ in range(5)
    ]
    drive = [
        *places()[:3],
        *(image.astype(np.uint8) for image in standing),
        black,
        np.full_like(black, 127),
        blurred,
        places()[0],
        places()[3],
    ]
    with collector(tmp_path) as choosing:
        said = [choosing.consider(frame(image, i)) for i, image in enumerate(drive)]
    assert said == [
        *["kept"] * 3,
        *["standing_still"] * 5,
        "dark",
        "flat",
        "blurred",
        "near_duplicate",
        "kept",
    ]
    assert choosing.counts["frames"] == len(drive)
    assert len(kept(tmp_path)) == 4


def test_names_are_in_order_of_time_and_open_frames_gives_them_so(tmp_path: Path) -> None:
    with collector(tmp_path) as choosing:
        for number, seconds in enumerate((0, 2, 11, 0, 1)):  # a second video begins
            choosing.consider(frame(places()[number], seconds))
    with collector(tmp_path) as choosing:
        choosing.consider(frame(places()[5]))
    times = [name.removesuffix(".jpg").split("-") for name in kept(tmp_path)]
    assert [(int(t[0]), int(t[2])) for t in times] == [
        *((1, ms) for ms in (0, 2000, 11000, 11100, 12100)),
        (2, 0),
    ]
    found = [one.name for one in open_frames(tmp_path)]
    assert found == [name.removesuffix(".jpg") for name in kept(tmp_path)]


def test_frames_of_one_millisecond_are_files_of_their_own(tmp_path: Path) -> None:
    """A live camera gives those that have waited in a burst."""
    with collector(tmp_path) as choosing:
        said = [choosing.consider(frame(s, i * 1e-4)) for i, s in enumerate(places()[:6])]
        store = choosing._store
        assert len(store.frames) == len(store.reservoir) == said.count("kept") > 2
        while len(store.reservoir):
            store.evict()
    assert kept(tmp_path) == []


def test_stamps_after_times_from_zero_go_on_in_the_same_drive(tmp_path: Path) -> None:
    with collector(tmp_path) as choosing:
        for number, seconds in enumerate((0, 1, 1_700_000_000, 1_700_000_001, 0)):
            choosing.consider(frame(places()[number], seconds))
    times = [int(name.removesuffix(".jpg").split("-")[2]) for name in kept(tmp_path)]
    assert times == [0, 1000, 1100, 2100, 2200]


def test_a_disk_that_is_short_is_told_once_while_frames_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = list(os.statvfs(tmp_path))
    blocks = fields[2]
    monkeypatch.setattr(store_module.os, "statvfs", lambda _: os.statvfs_result(fields))
    said: list[str] = []
    store = FrameStore(tmp_path, BUDGET, keep_free=0.1)
    with Collector(store, note=said.append) as choosing:
        fields[4] = blocks // 2  # f_bavail
        assert [choosing.consider(frame(places()[i], i)) for i in range(3)] == ["kept"] * 3
        assert said == []
        for number in (3, 4, 5):  # below the share, or some frames above it
            fields[4] = blocks // 10 + (100 if number == 4 else -1)
            choosing.consider(frame(places()[number], number))
        assert len(said) == 1
        assert "less than 10% of the disk is free, and frames are kept in the place" in said[0]
        fields[4] = blocks // 2
        assert choosing.consider(frame(places()[6], 6)) == "kept"
        assert said[1:] == [f"{tmp_path}: the disk has room again."]


def test_a_restart_goes_on_and_leaves_out_what_is_kept(tmp_path: Path) -> None:
    with collector(tmp_path) as choosing:
        assert [choosing.consider(frame(image)) for image in places()] == ["kept"] * len(places())
    before = kept(tmp_path)
    with collector(tmp_path) as choosing:
        assert {choosing.consider(frame(image)) for image in places()} == {"near_duplicate"}
    assert kept(tmp_path) == before


def test_what_is_seen_most_does_not_crowd_out_what_is_rare(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    with collector(tmp_path, 1_000_000) as choosing:
        for number in range(150):
            common = np.roll(places()[0], int(rng.integers(640)), axis=1)
            choosing.consider(frame(common, number))
            if number in (40, 80):
                rare = places()[5 if number == 40 else 6]
                assert choosing.consider(frame(rare, number + 0.5)) == "kept"
        for rare in places()[5:7]:
            assert choosing.consider(frame(rare, 200)) in ("near_duplicate", "standing_still")
        assert choosing.counts["less_new"]


def test_rare_classes_and_many_borders_weigh_more() -> None:
    interest = Interest()
    plain = np.zeros((160, 320), np.uint8)
    usual, _ = [interest.of(plain) for _ in range(40)][-1]
    rare = plain.copy()
    rare[:16, :32] = 5
    weight, classes = interest.of(rare)
    assert weight > usual
    assert classes == {0: pytest.approx(0.99), 5: pytest.approx(0.01)}
    assert interest.of(None) == (1.0, {})


def test_an_offer_never_waits_and_what_comes_meanwhile_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choosing = collector(tmp_path)
    begun, go_on = threading.Event(), threading.Event()
    consider = choosing.consider

    def slow(taken: Frame, _: object = None) -> str:
        begun.set()
        assert go_on.wait(20)
        return consider(taken)

    monkeypatch.setattr(choosing, "consider", slow)
    choosing.offer(frame(places()[0]))
    assert begun.wait(20)
    for number in range(1, 5):
        choosing.offer(frame(places()[number], number))
    go_on.set()
    choosing.close()
    assert choosing.counts["no_time"] == 3
    assert choosing.counts["kept"] == 2  # the one at work and the newest
    assert choosing.counts["frames"] == 5


def test_an_error_beside_the_caller_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choosing = collector(tmp_path)

    def broken(*_: object) -> bool:
        raise OutputError("the disk is gone")

    monkeypatch.setattr(FrameStore, "put", broken)
    choosing.offer(frame(places()[0]))
    with pytest.raises(OutputError, match="the disk is gone"):
        choosing.close()


def test_cpu_time_is_held_to_its_share() -> None:
    now, used, worked = 0.0, 0.0, 0.0
    share = CpuShare(0.25, clock=lambda: now, used=lambda: used)
    for _ in range(4000):  # frames of a camera of 40 a second, each worth 20 ms
        now += 0.025
        if share.has_some():
            used += 0.02
            worked += 0.02
    assert 0.24 * now <= worked <= 0.25 * now + BURST_S
