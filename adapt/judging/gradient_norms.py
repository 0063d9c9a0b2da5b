"""The norm of a run's gradient: an alarm when it explodes, and when it is dead afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

EXPLOSION = 20.0  # times the running median; the batches of one stage stay within a few times
DEATH = 1e-3  # of it: predictions are saturated, nothing is learnt any more
DEAD_STEPS = 5  # in a row; one batch without a valid pseudo label has no gradient either
WINDOW = 50  # usual steps that the median is of
LEAST = 10  # norms before which nothing is said


class GradientNorms:
    """The norms of one stage's gradients, before clipping.

    Collapse has this course: a step that is far too long, then softmax saturates and the gradient
    is gone for good, while the loss looks better than ever.
    """

    def __init__(self) -> None:
        self._norms: list[float] = []
        self._exploded, self._small = False, 0

    @property
    def dead(self) -> bool:
        """Tell whether the gradient exploded and has been next to nothing since."""
        return self._small >= DEAD_STEPS

    def add(self, norm: float) -> str | None:
        """Take the norm of a step; a sentence when it explodes for the first time, or dies."""
        if not math.isfinite(norm):
            return None  # the trainer throws such a step away and counts it
        usual = median(self._norms) if len(self._norms) >= LEAST else 0.0
        exploding = usual > 0 and norm > EXPLOSION * usual
        dying = self._exploded and norm < DEATH * usual
        if not (exploding or dying):  # or a long death would become the usual
            self._norms = [*self._norms, norm][-WINDOW:]
        self._small = self._small + 1 if dying else 0
        if exploding and not self._exploded:
            self._exploded = True
            return f"the gradient exploded: its norm is {norm / usual:.0f} times the usual"
        if self._small == DEAD_STEPS:
            return f"the gradient died after it exploded: below {DEATH:g} of the usual"
        return None

    def state(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"norms": self._norms, "exploded": self._exploded, "small": self._small}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self._norms = [float(norm) for norm in state["norms"]]
        self._exploded, self._small = bool(state["exploded"]), int(state["small"])
