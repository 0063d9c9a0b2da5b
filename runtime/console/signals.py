"""Signals that ask a process to end: a run stops between two steps, anything else unwinds.

SIGINT is Ctrl-C, SIGTERM a request to end, SIGHUP the terminal that went away; a SIGHUP that the
process was started to ignore (``nohup``) stays ignored.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

GRACE_S = 5.0  # for what a second SIGINT should end at once


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether SIGINT, SIGTERM or SIGHUP came.

    A second SIGINT stops at once, as the handler that was there before does, or by
    KeyboardInterrupt. Outside the main thread, where Python takes no handlers, signals do what they
    did before.

    A signal whose KeyboardInterrupt was lost in a body of `unwind_on_signals` around this one came,
    too: a library's import, or a finaliser, may swallow any exception.
    """
    stop = threading.Event()
    if any(around.by is not None for around in _AROUND):
        stop.set()
    earlier = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            if callable(earlier):
                earlier(number, frame)
            raise KeyboardInterrupt
        stop.set()

    with _handled_by(handle):
        yield stop.is_set


@dataclass(eq=False)
class Unwinding:
    """The signal that ended the body of `unwind_on_signals`, None if none came."""

    by: signal.Signals | None = None


_AROUND: list[Unwinding] = []  # of the bodies that have begun and not ended


@contextmanager
def unwind_on_signals() -> Iterator[Unwinding]:
    """Let SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, so that what is half-done is removed.

    An exception that comes after that is a consequence: ask `Unwinding.by` first.
    """
    unwinding = Unwinding()

    def handle(number: int, _: FrameType | None) -> None:
        unwinding.by = signal.Signals(number)
        raise KeyboardInterrupt

    _AROUND.append(unwinding)
    try:
        with _handled_by(handle):
            yield unwinding
    finally:
        _AROUND.remove(unwinding)


@contextmanager
def _handled_by(handle: Handler) -> Iterator[None]:
    """Handle the three signals in the body; the handlers that were there are put back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def ending_at_second_interrupt(sentence: bytes) -> Iterator[None]:
    """In the body end the process some seconds after a second SIGINT, whatever it is doing.

    Python runs handlers between two of its instructions, so that a library's long call (a camera
    that does not answer, a graph without an end) would hold them up; a thread looks instead.

    Args:
        sentence: to write to standard error then.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    left = threading.Event()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        interrupts = 0
        while interrupts < 2:
            numbers = os.read(reading, 64)
            if not numbers:  # the body has ended
                return
            interrupts += numbers.count(signal.SIGINT)
        if left.wait(GRACE_S):
            return
        try:
            os.write(2, sentence)
        finally:
            os._exit(130)

    watcher = threading.Thread(target=watch, name="second interrupt", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        left.set()
        os.close(writing)
        watcher.join()
        os.close(reading)
