"""Memory of this process, in MiB."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


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
