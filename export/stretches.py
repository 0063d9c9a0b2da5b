"""Progress of an export: one stretch of counted work after another, each with its rate."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..runtime.arguments import ProgressUpdate
from ..runtime.engines.tensorrt_build import Report


def stretches(
    show: Callable[[ProgressUpdate], None], clock: Callable[[], float] = time.monotonic
) -> Report:
    """A `Report` that gives ``show`` the rate of the stretch that goes on, and what it has left.

    A stretch begins with the first report, and where less is done than before or more or less is
    to do.
    """
    began_s, begun_with = clock(), 0
    before = (0, 0)

    def report(done: int, total: int, task: str) -> None:
        nonlocal began_s, begun_with, before
        if total != before[1] or done < before[0]:
            began_s, begun_with = clock(), done
        before = done, total
        seconds, steps = clock() - began_s, done - begun_with
        rate = steps / seconds if seconds > 0 else 0.0
        left_s = (total - done) / rate if rate else None
        show(ProgressUpdate(task, "steps", done, total, rate, left_s))

    return report
