"""Frames served by the engine of the slots until something happened."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from roadshift.runtime.engines import Engine
from roadshift.runtime.slots.serving import SlotEngine


def serve_until(batch: NDArray[np.uint8], done: Callable[[], object], engine: Engine) -> None:
    """Serve one batch after the other until something is so; a hang fails."""
    end = time.monotonic() + 20
    while not done():
        engine.infer(batch)
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def served_by(engine: SlotEngine) -> str:
    """Hash of the model that serves."""
    return engine._serving.hash
