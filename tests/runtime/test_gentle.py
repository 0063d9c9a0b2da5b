"""A model is prepared in the gaps between frames, and Python's lock handed over sooner."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fleets import Fleet
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.engines import Engine, open_engine
from roadshift.runtime.gentle import HANDOVER_S, PATIENCE_S, FrameGaps, gently, in_a_gap
from roadshift.runtime.slots import roll_back
from roadshift.runtime.slots.serving import SlotEngine


@pytest.fixture(autouse=True)
def interval() -> float:
    return sys.getswitchinterval()


def test_the_interval_is_as_before_after_overlapping_blocks_and_failures(interval: float) -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with gently():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with gently():
        thread.start()
        inside.wait()
    assert sys.getswitchinterval() == pytest.approx(
        HANDOVER_S, abs=2e-6
    )  # the other is at it still
    leave.set()
    thread.join()
    assert sys.getswitchinterval() == pytest.approx(interval)
    with pytest.raises(KeyError), gently():
        raise KeyError
    assert sys.getswitchinterval() == pytest.approx(interval)


def test_a_user_who_hands_over_sooner_is_left_alone(interval: float) -> None:
    sys.setswitchinterval(HANDOVER_S / 4)
    try:
        with gently():
            assert sys.getswitchinterval() == pytest.approx(HANDOVER_S / 4, abs=2e-6)
    finally:
        sys.setswitchinterval(interval)


def test_a_run_opens_the_next_model_gently(tmp_path: Path, interval: float) -> None:
    fleet = Fleet(tmp_path)
    first = fleet.running(1)
    fleet.running(2)
    seen = list[float]()
    opened = threading.Event()

    def opening(bundle: Bundle) -> Engine:
        if bundle.hash == first.hash:
            seen.append(sys.getswitchinterval())
            opened.set()
        return open_engine(bundle)

    with SlotEngine(fleet.store, fleet.trust, open_with=opening) as engine:
        engine.infer(np.zeros((1, 16, 32, 3), np.uint8))
        roll_back(fleet.store, "by hand")
        assert opened.wait(20)
    assert seen == [pytest.approx(HANDOVER_S, abs=2e-6)]
    assert sys.getswitchinterval() == pytest.approx(interval)


def test_work_beside_frames_begins_after_one_of_them() -> None:
    gaps, began = FrameGaps(), threading.Event()
    waits = threading.Event()

    def prepare() -> None:
        with gently(gaps):
            waits.set()
            in_a_gap()
            began.set()

    gaps.open()  # frames come
    thread = threading.Thread(target=prepare)
    thread.start()
    assert waits.wait(20)
    for _ in range(1000):  # frames; the first may be served before the other thread waits for one
        gaps.open()
        if began.wait(0.01):
            break
    assert began.is_set()
    thread.join()


def test_work_does_not_wait_where_no_frames_come() -> None:
    gaps = FrameGaps()
    with gently(gaps):
        started = time.monotonic()
        for _ in range(200):
            in_a_gap()
        gaps.open()
        for _ in range(200):  # one wait for the next frame at most, then no more
            in_a_gap()
    assert time.monotonic() - started < 100 * PATIENCE_S


def test_outside_such_a_block_nothing_waits() -> None:
    gaps = FrameGaps()
    with gently(gaps), gently():
        pass
    gaps.open()
    started = time.monotonic()
    for _ in range(1000):
        in_a_gap()
    assert time.monotonic() - started < 500 * PATIENCE_S


def test_a_model_is_opened_in_pieces_between_frames(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    first = fleet.running(1)
    fleet.running(2)
    waited = list[str]()

    with SlotEngine(
        fleet.store, fleet.trust, open_with=lambda b: open_engine(b, threads=1)
    ) as engine:
        wait = engine._gaps.wait
        engine._gaps.wait = lambda: (waited.append(threading.current_thread().name), wait())[1]  # type: ignore[method-assign]
        roll_back(fleet.store, "by hand")
        frame = np.zeros((1, 16, 32, 3), np.uint8)
        for _ in range(2000):
            engine.infer(frame)
            time.sleep(0.005)
            if engine._serving.hash == first.hash:
                break
        assert engine._serving.hash == first.hash
    # its signature and files twice, its bytes, its graph, its weights, a session, two first frames
    assert len(waited) >= 8
    assert set(waited) != {threading.current_thread().name}
