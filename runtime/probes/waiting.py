"""Threads that wait for one another: when they may turn in a loop, and how long they had no core.

Threads of OpenMP (torch) and of ONNX Runtime turn in a loop while they wait, which is quickest as
long as every thread has a core to itself. Where another program takes one of the cores, the thread
that is waited for has lost its core to a thread that merely waits, and each of thousands of small
operations takes a time slice of the scheduler (milliseconds) instead of microseconds.
"""

from __future__ import annotations

import os
from pathlib import Path

# By these a user decides for himself: OpenMP's standard; GNU's, which torch's wheels for Linux
# bring; LLVM's and Intel's.
_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_TASKS = Path("/proc/self/task")


def users_choice() -> str | None:
    """The user's own setting in the environment, such as "OMP_WAIT_POLICY=PASSIVE"; or None."""
    chosen = [f"{name}={os.environ[name]}" for name in _CHOICES if name in os.environ]
    return ", ".join(chosen) or None


def may_spin() -> bool:
    """Tell whether the user lets waiting threads spin: by OpenMP's settings, for all of them."""
    return users_choice() != "OMP_WAIT_POLICY=PASSIVE"


def waited_for_core_s(tasks: Path = _TASKS) -> float | None:
    """Seconds that this process's threads were ready to run and had no core, summed.

    From ``/proc/self/task/*/schedstat`` (Linux, Documentation/scheduler/sched-stats.rst); threads
    that have ended do not count. None where the kernel does not say.
    """
    try:
        return sum(_waited_ns(tasks / task) for task in os.listdir(tasks)) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def _waited_ns(task: Path) -> int:
    """Nanoseconds of one thread; none of one that has just ended."""
    try:
        return int((task / "schedstat").read_text(encoding="ascii").split()[1])
    except (FileNotFoundError, ProcessLookupError):
        if task.exists():
            raise  # a kernel without the statistics
        return 0


def waiting() -> str:
    """The way in which torch's threads wait here, in words for ``doctor`` and manifests."""
    choice = users_choice()
    if choice is not None:
        return f"as {choice} says"
    if waited_for_core_s() is None:
        return "spinning: this kernel does not tell when other programs take the cores"
    return "spinning, asleep while other programs want the cores"
