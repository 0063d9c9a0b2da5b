"""Kills of a process at every call that reaches the operating system.

A child is forked, and a profiler counts its calls of C functions that change files or make such
changes last; before or after the one with the number asked for, the child kills itself. A fork
costs milliseconds, so thousands of points can be tried.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

CALLS = {
    "open", "write", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir", "link", "flush",
    "close", "truncate", "ftruncate", "flock", "pread", "lseek", "writelines", "symlink",
}  # fmt: skip
EVENTS = ("c_call", "c_return")  # before the call, and after it


def killed_at(number: int, when: str, work: Callable[[], object]) -> bool:
    """Do the work in a child that is killed at a call; True if it was, False if it ended before.

    Raises:
        AssertionError: the work failed by itself.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.setprofile(_killer(number, when))
            work()
            sys.setprofile(None)
            status = 0
        except BaseException:
            sys.setprofile(None)
            traceback.print_exc()
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    if os.WIFSIGNALED(ended):
        assert os.WTERMSIG(ended) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(ended) == 0, "the work failed"
    return False


def _killer(number: int, when: str) -> Callable[[FrameType, str, Any], None]:
    left = number

    def profile(_: FrameType, event: str, function: Any) -> None:
        nonlocal left
        if event != when or getattr(function, "__name__", "") not in CALLS:
            return
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    return profile
