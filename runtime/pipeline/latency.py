"""Percentiles of any number of times in a fixed amount of memory."""

from __future__ import annotations

import math

_FIRST_MS, _LAST_MS = 1e-3, 1e7  # a microsecond to three hours
_STEP = 1.01


class Latencies:
    """Histogram of times in bins of 1 %: percentiles are right to 0.5 %, the largest exactly.

    A drive of a day has millions of frames, whose times would fill memory one by one.
    """

    def __init__(self) -> None:
        self._counts = [0] * (math.ceil(math.log(_LAST_MS / _FIRST_MS, _STEP)) + 1)
        self._total = 0
        self._largest = 0.0

    def add(self, milliseconds: float) -> None:
        """Count one time; what is outside 0.001 ms to 10^7 ms counts in the bin at that end."""
        clipped = min(max(milliseconds, _FIRST_MS), _LAST_MS)
        self._counts[int(math.log(clipped / _FIRST_MS, _STEP))] += 1
        self._total += 1
        self._largest = max(self._largest, milliseconds)

    def percentile(self, percent: float) -> float:
        """The time that ``percent`` of all are at most as long as, in milliseconds; 0 of none."""
        wanted = max(1, math.ceil(percent / 100 * self._total))
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                middle: float = _FIRST_MS * _STEP ** (index + 0.5)
                return min(middle, self._largest)
        return 0.0

    def summary(self) -> dict[str, float]:
        """``{"p50", "p90", "p99", "max"}`` in milliseconds."""
        percentiles = {f"p{p}": self.percentile(p) for p in (50, 90, 99)}
        return {**percentiles, "max": self._largest}
