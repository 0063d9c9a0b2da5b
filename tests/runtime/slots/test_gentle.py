"""Preparing a model gently: Python's lock is handed over sooner, and as before afterwards."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from fleets import Fleet
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.engines import Engine, open_engine
from roadshift.runtime.slots import roll_back
from roadshift.runtime.slots.gentle import HANDOVER_S, gently
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
