"""Preparing a model beside one that serves, so that frames hardly wait for it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

HANDOVER_S = 0.0002  # of Python's lock, while a model is prepared
PATIENCE_S = 0.1  # after a frame, for the next one; engines that are slower have no gaps
DELIVERY_S = 0.001  # from a frame's labels until they are with whoever asked for them

_lock = threading.Lock()
_preparing = 0
_before = 0.0
_gap: ContextVar[Callable[[], None]] = ContextVar("gap", default=lambda: None)


class FrameGaps:
    """The gaps between the frames that an engine serves, in which work beside it may begin."""

    def __init__(self) -> None:
        self._served = threading.Event()
        self._latest = -PATIENCE_S

    def open(self) -> None:
        """Tell that a frame was served."""
        self._latest = time.monotonic()
        self._served.set()

    def wait(self) -> None:
        """Return just after the next frame was served; at once where frames do not come."""
        self._served.clear()
        left = self._latest + PATIENCE_S - time.monotonic()
        if left > 0 and self._served.wait(left):
            time.sleep(DELIVERY_S)


def in_a_gap() -> None:
    """Wait, in a thread that is in a `gently` block, for a gap between frames; else return.

    Called before each piece of work that computes for milliseconds while a model is opened. A gap
    is most of a camera's period with a small engine, and a piece that fits into it shares neither
    the cores nor the memory with a frame.
    """
    _gap.get()()


@contextmanager
def gently(gaps: FrameGaps | None = None) -> Iterator[None]:
    """Prepare in pieces, and have Python's lock handed over sooner, until the block ends.

    A thread that wants the lock asks for it after Python's switch interval, 5 ms, and a frame wants
    it several times: after each piece of work that goes on without it. Blocks may overlap, in
    threads of several engines; the interval is the process's.

    The thread's priority stays: a thread of low priority that has the lock, and no core because of
    other programs, would keep it from the one that serves.

    Args:
        gaps: of the engine that serves, for `in_a_gap` in this thread.
    """
    global _preparing, _before
    with _lock:
        if not _preparing:
            _before = sys.getswitchinterval()
            sys.setswitchinterval(min(_before, HANDOVER_S))
        _preparing += 1
    token = _gap.set(gaps.wait) if gaps is not None else None
    try:
        yield
    finally:
        if token is not None:
            _gap.reset(token)
        with _lock:
            _preparing -= 1
            if not _preparing:
                sys.setswitchinterval(_before)
