"""Training beside other programs: OpenMP's threads sleep while they wait, once cores are scarce.

Why they should, and when they are told to, is said in `runtime.probes.waiting` and `core_watch`.
Here is how the way of waiting is changed while torch runs. GNU's OpenMP, which torch's wheels for
Linux bring, reads its environment once. But it spins for 300,000 turns only as long as the process
has no more OpenMP threads than the machine has cores, and for 100 turns beyond that (libgomp's
manual, GOMP_SPINCOUNT). So a team of threads that does nothing, asleep for as long as it exists,
makes all others sleep early, and they spin again when it is gone. The number of threads that work,
and with it every sum's order, stays the same.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from ...runtime.probes import core_watch
from ...runtime.probes.core_watch import may_watch
from ...runtime.probes.cores import available_cores


@contextmanager
def sharing_cores() -> Iterator[None]:
    """Let OpenMP's waiting threads sleep while other programs want the cores.

    Blocks may be nested and may overlap in several threads: one team serves them all. It does
    nothing where the user has decided (`users_choice`), where the kernel does not tell how long
    threads wait for a core, or where torch's OpenMP is not GNU's.
    """
    global _sharing, _team
    with _lock:
        _sharing += 1
        if _sharing == 1 and may_watch():
            openmp = loaded_openmp()
            if openmp is not None:
                _team = OpenMPTeam(openmp)
    try:
        yield
    finally:
        with _lock:
            _sharing -= 1
            if _sharing == 0 and _team is not None:
                _team.close()
                _team = None


class OpenMPTeam:
    """An idle team, which is there while cores are scarce.

    Args:
        openmp: see `idle_team`.
    """

    def __init__(self, openmp: ctypes.CDLL) -> None:
        self._openmp = openmp
        self._end: Callable[[], None] | None = None
        self._before_s = core_watch.WATCH.scarce_s()
        self._closed = False
        self._changing = threading.Lock()
        if core_watch.WATCH.add(self):
            self.share_cores(True)

    @property
    def scarce_s(self) -> float:
        """Seconds for which cores were scarce in the life of this object."""
        return core_watch.WATCH.scarce_s() - self._before_s

    def share_cores(self, scarce: bool) -> None:
        """Start or end the team."""
        with self._changing:
            if scarce and self._end is None and not self._closed:
                self._end = idle_team(self._openmp)
            elif not scarce and self._end is not None:
                end, self._end = self._end, None
                end()

    def close(self) -> None:
        """End the team for good."""
        core_watch.WATCH.remove(self)
        self._closed = True
        self.share_cores(False)


def use_threads(threads: int | None) -> None:
    """Let torch compute on so many CPU threads from now on.

    None keeps its own number, which follows ``OMP_NUM_THREADS``, but for a container's CPU quota,
    which torch does not know.
    """
    torch.set_num_threads(threads or min(torch.get_num_threads(), available_cores()))


def crowded_s() -> float:
    """Seconds for which threads had to sleep since the outermost `sharing_cores` began."""
    team = _team
    return 0.0 if team is None else team.scarce_s


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


_lock = threading.Lock()
_sharing = 0
_team: OpenMPTeam | None = None
