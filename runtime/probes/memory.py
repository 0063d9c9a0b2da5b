"""Memory of this process, in MiB."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def give_back_unused() -> None:
    """Return freed memory to the system, so that what comes next is seen to take its own."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return  # another C library: it gives back in its own time


def reset_peak_memory() -> None:
    """Start the peak of resident memory anew, where Linux lets a process do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # then peak_memory_mib() is since the start of the process


def peak_memory_mib() -> float:
    """The highest resident memory since the last reset, or ever."""
    try:
        return _status_mib("VmHWM")
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def resident_memory_mib() -> float:
    """Resident memory now; the highest ever where the system does not say."""
    try:
        return _status_mib("VmRSS")
    except (OSError, IndexError):
        return peak_memory_mib()


def _status_mib(key: str) -> float:
    return int(_STATUS.read_text().split(f"{key}:")[1].split()[0]) / 1024


def available_memory_bytes() -> int | None:
    """Memory that this process may still take without swapping; None where no one says.

    The least of what the system has and what the control group of the process leaves.
    """
    known = [_system_available(), _group_available()]
    return min((room for room in known if room is not None), default=None)


def _system_available() -> int | None:
    try:
        return int(_MEMINFO.read_text().split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return None


def _group_available() -> int | None:
    """Free bytes of a control group (version 2) with a limit, as containers have one."""
    try:
        limit = int((_GROUP / "memory.max").read_text())
        return max(0, limit - int((_GROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        return None
