"""The health of a model on trial: how fast it is, and whether it still sees every class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..bundle.latency_bound import latency_bound_ms

FRAMES = 100  # that a model on trial sees before it may take over
MORE = 5  # times as many it sees at most, where they leave its speed in doubt
SEEN = 0.001  # share of pixels from which on a class counts as there
MOST_LOST = 0.9  # share of its area that a class may lose against the model before


@dataclass(frozen=True)
class Health:
    """The outcome of a trial.

    Attributes:
        passed: whether all checks did.
        sentences: one for each check that failed, or one that says how many frames were seen.
        frames: seen.
        p99_ms: 99th percentile of the time that a frame took the engine; None where none was seen.
        model: hash of the bundle that was tried; None where it is not said.
    """

    passed: bool
    sentences: tuple[str, ...]
    frames: int
    p99_ms: float | None
    model: str | None = None


@dataclass
class Trials:
    """Frames that a model on trial has seen beside the one that runs.

    Args:
        classes: their names, in index order.
        p99_ms: the longest that is allowed; None for no bound.
        model: hash of the bundle that is tried.
    """

    classes: Sequence[str]
    p99_ms: float | None = None
    model: str | None = None
    _before: NDArray[np.float64] = field(init=False)
    _after: NDArray[np.float64] = field(init=False)
    _times_ms: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._before, self._after = np.zeros(256), np.zeros(256)

    @property
    def frames(self) -> int:
        return len(self._times_ms)

    def add(
        self, before: NDArray[np.uint8] | None, after: NDArray[np.uint8], took_ms: float
    ) -> None:
        """Count one frame.

        Args:
            before: labels of the model that runs; None where none does.
            after: labels of the model on trial, of the same frame.
            took_ms: that its engine took.
        """
        if before is not None:
            self._before += _shares(before)
            self._after += _shares(after)
        self._times_ms.append(took_ms)

    def health(self) -> Health:
        """The outcome so far."""
        p99 = float(np.percentile(self._times_ms, 99)) if self._times_ms else None
        problems = [*self._slow(p99), *self._lost()]
        seen = f"{self.frames} frames seen, " + (f"p99 {p99:.1f} ms" if p99 else "none timed")
        return Health(not problems, tuple(problems) or (seen,), self.frames, p99, self.model)

    def is_decided(self, frames: int) -> bool:
        """Tell whether a trial of ``frames`` frames may end.

        Of a hundred frames the 99th percentile is nearly the second slowest, which a busy moment of
        the machine makes. So where it alone is over its bound, and more frames could bring it
        under, up to `MORE` times as many are seen.
        """
        most = MORE * frames
        if self.frames < frames:
            return self.too_slow(most)
        if self.frames >= most or self._lost():
            return True
        p99 = float(np.percentile(self._times_ms, 99))
        return not self._slow(p99) or self.too_slow(most)

    def too_slow(self, frames: int) -> bool:
        """Tell whether so many frames took too long that the bound cannot be kept over ``frames``.

        The percentile interpolates between two neighbours in order; once the lower one is over the
        bound, so is the percentile, however fast the frames to come are.
        """
        if self.p99_ms is None:
            return False
        over = sum(took > self.p99_ms for took in self._times_ms)
        return over > frames - 1 - int(0.99 * (frames - 1))

    def _slow(self, p99: float | None) -> list[str]:
        if p99 is None:
            return ["no frame was seen"]
        if self.p99_ms is not None and p99 > self.p99_ms:
            return [f"a frame takes {p99:.1f} ms (p99), and at most {self.p99_ms:g} are allowed"]
        return []

    def _lost(self) -> list[str]:
        total = float(self._before.sum())
        problems = []
        for index, name in enumerate(self.classes):
            before, after = float(self._before[index]), float(self._after[index])
            if before >= SEEN * total > 0 and after < (1 - MOST_LOST) * before:
                lost = 100 * (1 - after / before)
                problems.append(f"{name} has lost {lost:.0f} % of the area that it had before")
        return problems


def longest_ms(slots_ms: float | None, tried: Bundle) -> float | None:
    """The bound of a trial: that of the slots or of the model, the shorter; None for neither."""
    bounds = [bound for bound in (slots_ms, latency_bound_ms(tried)) if bound is not None]
    return min(bounds, default=None)


def _shares(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Share of the pixels by class index, (256,); maps of any size count alike."""
    return np.bincount(labels.ravel(), minlength=256) / labels.size
