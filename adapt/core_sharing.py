"""Training beside other programs: OpenMP's threads sleep while they wait, once cores are scarce.

Why they should is said in `roadshift.runtime.waiting`. Sleeping always (OMP_WAIT_POLICY=PASSIVE)
would not do: on a machine with nothing else to do a small network's step then takes up to 1.7 times
as long, since waking a thread takes longer than the operation that it waits for.

How the way of waiting is changed while torch runs. GNU's OpenMP, which torch's wheels for Linux
bring, reads its environment once. But it spins for 300,000 turns only as long as the process has no
more OpenMP threads than the machine has cores, and for 100 turns beyond that (libgomp's manual,
GOMP_SPINCOUNT). So a team of threads that does nothing, asleep for as long as it exists, makes all
others sleep early, and they spin again when it is gone. The number of threads that work, and with
it every sum's order, stays the same.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from ..runtime.cores import available_cores
from ..runtime.waiting import users_choice, waited_for_core_s

LOOK_EVERY_S = 0.25
SCARCE = 0.15  # threads that wait for a core, on average: another program wants it
FREE = 0.05
QUIET_LOOKS = 8  # in a row, before threads may spin again


@contextmanager
def sharing_cores() -> Iterator[None]:
    """Let OpenMP's waiting threads sleep while other programs want the cores.

    Blocks may be nested and may overlap in several threads: one watch serves them all. It does
    nothing where the user has decided (`users_choice`), where the kernel does not tell how long
    threads wait for a core, or where torch's OpenMP is not GNU's.
    """
    global _watch, _sharing
    with _lock:
        _sharing += 1
        if _sharing == 1:
            _watch = _started()
    try:
        yield
    finally:
        ended = None
        with _lock:
            _sharing -= 1
            if _sharing == 0:
                ended, _watch = _watch, None
        if ended is not None:
            ended.close()


def use_threads(threads: int | None) -> None:
    """Let torch compute on so many CPU threads from now on.

    None keeps its own number, which follows ``OMP_NUM_THREADS``, but for a container's CPU quota,
    which torch does not know.
    """
    torch.set_num_threads(threads or min(torch.get_num_threads(), available_cores()))


def crowded_s() -> float:
    """Seconds for which threads had to sleep since the outermost `sharing_cores` began."""
    watch = _watch
    return 0.0 if watch is None else watch.crowded_s


class CoreWatch:
    """A thread that looks a few times a second how long this process's threads wait for cores.

    Args:
        hold: called when cores have become scarce; the function that it returns, when they are free
            again.
        waited_s: as `waited_for_core_s`.
    """

    def __init__(
        self,
        hold: Callable[[], Callable[[], None]],
        waited_s: Callable[[], float | None] = waited_for_core_s,
    ) -> None:
        self._hold, self._waited_s = hold, waited_s
        self._release: Callable[[], None] | None = None
        self._quiet = 0
        self._since, self._crowded_s = 0.0, 0.0
        self._last = waited_s() or 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="roadshift-cores", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End; threads spin again."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._let_spin()

    @property
    def crowded_s(self) -> float:
        """Seconds for which cores were scarce so far."""
        since = time.monotonic() - self._since if self._release is not None else 0.0
        return self._crowded_s + since

    def look(self, seconds: float) -> None:
        """Compare with the last look, ``seconds`` ago."""
        now = self._waited_s()
        if now is None:
            return
        share = max(0.0, now - self._last) / seconds  # a thread that ended takes its time along
        self._last = now
        self._quiet = self._quiet + 1 if share < FREE else 0
        if self._release is None and share > SCARCE:
            self._since, self._release = time.monotonic(), self._hold()
        elif self._quiet >= QUIET_LOOKS:
            self._let_spin()

    def _let_spin(self) -> None:
        if self._release is not None:
            self._crowded_s += time.monotonic() - self._since
            release, self._release = self._release, None
            release()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(LOOK_EVERY_S):
            now = time.monotonic()
            self.look(now - last)
            last = now


def idle_team(openmp: ctypes.CDLL) -> Callable[[], None]:
    """Start a team of OpenMP threads, one more than the machine has cores, that only sleeps.

    Args:
        openmp: GNU's library, or one with its interface.

    Returns:
        A function that ends the team.
    """
    there, ended = threading.Event(), threading.Event()
    # Each thread of the team calls free(NULL), which does nothing and needs no Python.
    nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)

    def lead() -> None:  # a team lasts as long as the thread that made it
        openmp.GOMP_parallel(
            nothing,
            ctypes.c_void_p(None),
            ctypes.c_uint((os.cpu_count() or 1) + 1),
            ctypes.c_uint(0),
        )
        there.set()
        ended.wait()

    leader = threading.Thread(target=lead, name="roadshift-idle-team", daemon=True)
    leader.start()
    there.wait()

    def end() -> None:
        ended.set()
        leader.join()

    return end


def loaded_openmp(maps: Path = Path("/proc/self/maps")) -> ctypes.CDLL | None:
    """GNU's OpenMP as this process has loaded it, torch's first; None where there is none."""
    with suppress(OSError):
        found = sorted(
            {
                match[0]
                for line in maps.read_text(encoding="utf-8", errors="replace").splitlines()
                if (match := re.search(r"/.*/libgomp[^/]*\.so[^/]*$", line))
            },
            key=lambda path: ("/torch" not in path, path),
        )
        for path in found:
            with suppress(OSError, AttributeError):
                library = ctypes.CDLL(path)
                library.GOMP_parallel.restype = None
                return library
    return None


def _started() -> CoreWatch | None:
    """A watch at work; None where it could change nothing."""
    if users_choice() is not None or waited_for_core_s() is None:
        return None
    openmp = loaded_openmp()
    if openmp is None:
        return None
    watch = CoreWatch(lambda: idle_team(openmp))
    watch.start()
    return watch


_lock = threading.Lock()
_sharing = 0
_watch: CoreWatch | None = None
