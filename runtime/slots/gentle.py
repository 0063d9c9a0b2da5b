"""Preparing a model beside one that serves, so that frames hardly wait for it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HANDOVER_S = 0.0002  # of Python's lock, while a model is prepared

_lock = threading.Lock()
_preparing = 0
_before = 0.0


@contextmanager
def gently() -> Iterator[None]:
    """Have Python's lock handed over sooner, to a thread that serves, until the block ends.

    A thread that wants the lock asks for it after Python's switch interval, 5 ms, and a frame wants
    it several times: after each piece of work that goes on without it. Blocks may overlap, in
    threads of several engines; the interval is the process's.

    The thread's priority stays: a thread of low priority that has the lock, and no core because of
    other programs, would keep it from the one that serves.
    """
    global _preparing, _before
    with _lock:
        if not _preparing:
            _before = sys.getswitchinterval()
            sys.setswitchinterval(min(_before, HANDOVER_S))
        _preparing += 1
    try:
        yield
    finally:
        with _lock:
            _preparing -= 1
            if not _preparing:
                sys.setswitchinterval(_before)
