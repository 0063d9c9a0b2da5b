"""A share of one core: work that has used it up waits until the clock has given it more."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

BURST_S = 0.5  # of CPU time that may be saved up
_NICENESS = 10


def step_back() -> None:
    """Give this thread, and those that it starts from now on, a lower priority than an engine's."""
    thread = threading.get_native_id()
    with suppress(OSError):  # a system that knows no priority of threads
        niceness = max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread))
        os.setpriority(os.PRIO_PROCESS, thread, niceness)


class CpuShare:
    """CPU time of the calling thread, held to a share of the time that passes.

    Args:
        share: of one core, above 0; 1 is a whole one.
    """

    def __init__(
        self,
        share: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.thread_time,
    ) -> None:
        self._share, self._clock, self._used = share, clock, used
        self._saved_s = BURST_S * share
        self._looked_at = clock()
        self._used_before = used()

    def has_some(self) -> bool:
        """Tell whether the thread may work now; called by itself, before each piece of work."""
        now, used = self._clock(), self._used()
        earned = self._share * (now - self._looked_at)
        spent = used - self._used_before
        self._saved_s = min(self._saved_s + earned - spent, BURST_S * self._share)
        self._looked_at, self._used_before = now, used
        return self._saved_s > 0
