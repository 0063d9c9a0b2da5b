"""A watch over the cores: while other programs want them, threads are told to sleep as they wait.

Why they should is said in `waiting`. Sleeping always would not do: on a machine with nothing else
to do a small network then takes markedly longer, since waking a thread takes longer than the
operation that it waits for.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from .machine_state import others_core_seconds
from .waiting import users_choice, waited_for_core_s

LOOK_EVERY_S = 0.25
SCARCE = 0.15  # threads that wait for a core, on average: another program wants it
FREE = 0.05
QUIET_LOOKS = 8  # in a row, before threads may spin again
BUSY = 0.5  # cores that other programs use before the first look, from which they are scarce
ALONE = 0.2  # cores that others use, below which this process's threads wait for one another


class Waiter(Protocol):
    """Threads that wait for one another in one way or the other."""

    def share_cores(self, scarce: bool) -> None:
        """Let waiting threads sleep where cores are scarce, and spin where they are not."""


class CoreWatch:
    """A thread that looks a few times a second how long this process's threads wait for cores.

    They wait for one another, too, where they are more than the cores: so it looks at what other
    programs use as well. It runs as long as there are waiters, to which it holds no more than weak
    references.

    Args:
        waited_s: as `waited_for_core_s`.
        others_s: as `others_core_seconds`.
    """

    def __init__(
        self,
        waited_s: Callable[[], float | None] = waited_for_core_s,
        others_s: Callable[[], float | None] = others_core_seconds,
    ) -> None:
        self._waited_s, self._others_s = waited_s, others_s
        self._waiters: weakref.WeakSet[Waiter] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._born = (time.monotonic(), others_s())
        self.scarce = False
        self._quiet = 0
        self._since, self._scarce_s, self._waited = 0.0, 0.0, 0.0
        self._others: float | None = None  # at the last look

    def add(self, waiter: Waiter) -> bool:
        """Tell ``waiter`` from now on; gives whether cores are scarce now, which it is not told."""
        with self._lock:
            if self._thread is None:
                self.begin()
                self._thread = threading.Thread(target=self._run, name="roadshift-cores")
                self._thread.daemon = True
                self._thread.start()
            self._waiters.add(waiter)  # last: it may hold a lock that being told takes
            return self.scarce

    def remove(self, waiter: Waiter) -> None:
        """Tell ``waiter`` no more."""
        with self._lock:
            self._waiters.discard(waiter)

    def stop(self) -> None:
        """Look no more, and wait for what a waiter was told last to be done."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def scarce_s(self) -> float:
        """Seconds for which cores were scarce so far."""
        with self._lock:
            return self._scarce_s + (time.monotonic() - self._since if self.scarce else 0.0)

    def begin(self) -> None:
        """Look for the first time: at what other programs did since this object was made."""
        self._waited = self._waited_s() or 0.0
        born, before = self._born
        self._others = now = self._others_s()
        seconds = time.monotonic() - born
        known = now is not None and before is not None and seconds > LOOK_EVERY_S
        if known and not self.scarce and (now - before) / seconds > BUSY:  # type: ignore[operator]
            self._tell(True)

    def look(self, seconds: float) -> None:
        """Compare with the last look, ``seconds`` ago."""
        with self._lock:
            waited = self._waited_s()
            if waited is None:
                return
            share = max(0.0, waited - self._waited) / seconds  # a thread's end takes its time along
            self._waited = waited
            if self._is_alone(seconds):
                share = 0.0
            self._quiet = self._quiet + 1 if share < FREE else 0
            if not self.scarce and share > SCARCE:
                self._tell(True)
            elif self.scarce and self._quiet >= QUIET_LOOKS:
                self._tell(False)

    def _is_alone(self, seconds: float) -> bool:
        """Tell whether other programs have used next to nothing since the last look.

        Where the machine's account leaves out what this process used, nothing is known.
        """
        before, self._others = self._others, self._others_s()
        if before is None or self._others is None:
            return False
        return -ALONE < (self._others - before) / seconds < ALONE

    def _tell(self, scarce: bool) -> None:
        self.scarce, self._quiet = scarce, 0
        if scarce:
            self._since = time.monotonic()
        else:
            self._scarce_s += time.monotonic() - self._since
        for waiter in list(self._waiters):
            waiter.share_cores(scarce)

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(LOOK_EVERY_S):
            with self._lock:
                if not self._waiters:
                    self._thread = None
                    self._born = (time.monotonic(), self._others_s())
                    if self.scarce:
                        self._tell(False)
                    return
            now = time.monotonic()
            self.look(now - last)
            last = now


def may_watch() -> bool:
    """Tell whether a watch can serve: the user has not decided, and the kernel tells."""
    return users_choice() is None and waited_for_core_s() is not None


def _after_fork() -> None:
    """Start a new watch in a child process, which has no thread of its parent's."""
    global WATCH
    WATCH = CoreWatch()


def _at_exit() -> None:
    """End the watch while Python still runs.

    A thread that is within ONNX Runtime when Python ends would abort the process: a session may be
    in the making for a waiter.
    """
    WATCH.stop()


WATCH = CoreWatch()
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
