"""The first instants of the command: an interrupt while the rest loads is one line, exit code 130.

Imported by ``cli`` before anything else; in a process that is not the command nothing happens.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType


def is_the_command() -> bool:
    """Tell whether this process was started as ``roadshift`` or ``python -m roadshift.cli``."""
    return os.path.basename(sys.argv[0] if sys.argv else "") in ("roadshift", "cli.py")


# `time.monotonic` when the command began, from which on its time budget counts; None elsewhere.
STARTED = time.monotonic() if is_the_command() else None


def _leave(_: int, __: FrameType | None) -> None:
    """End the process: nothing is made yet, and a half-done import cannot be cleaned up."""
    try:
        os.write(2, b"error: Interrupted before it began.\n")
    finally:
        os._exit(130)


if is_the_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)
