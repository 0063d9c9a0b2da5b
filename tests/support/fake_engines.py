"""Engines that need no model, and a clock that they move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from roadshift.runtime.bundle import InputSpec
from roadshift.runtime.engines import Engine
from roadshift.runtime.labels import LabelSpace
from spaces import TWO


class FakeEngine(Engine):
    """Takes frames of ``width`` and ``height`` as they are; a subclass has ``_infer``."""

    def __init__(self, space: LabelSpace, width: int, height: int) -> None:
        spec = InputSpec(width=width, height=height, mean=(0, 0, 0), std=(1, 1, 1))
        super().__init__(space, spec, backend="test", precision="exact", device="cpu", reason="")


class Threshold(FakeEngine):
    """Class 1 where the red channel is above 127; ``before`` runs ahead of each inference."""

    width, height = 64, 48

    def __init__(self, before: Callable[[], Any] = lambda: None) -> None:
        super().__init__(TWO, self.width, self.height)
        self._before = before

    def _infer(self, batch: np.ndarray) -> np.ndarray:
        self._before()
        return (batch[..., 0] > 127).astype(np.uint8)


class FakeClock:
    """A clock of a bench that stands still until somebody waits or takes time."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def wait_until(self, moment: float) -> None:
        self.time = max(self.time, moment)
