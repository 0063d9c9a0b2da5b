"""The first instants of the command: an interrupt while the rest loads is one line, exit code 130.

Imported before anything else, by ``cli_entry`` and ``cli``; in a process that is not the
command nothing happens. It imports what every interpreter holds already: not even ``signal``, which
takes a hundred times as long as its handler.
"""

import _signal  # type: ignore[import-not-found]
import os
import sys
import time


def is_the_command() -> bool:
    """Tell whether this process was started as ``roadshift`` or ``python -m roadshift.cli``."""
    return os.path.basename(sys.argv[0] if sys.argv else "") in ("roadshift", "cli.py")


def _leave(_: int, __: object) -> None:
    """End the process: nothing is made yet, and a half-done import cannot be cleaned up."""
    try:
        os.write(2, b"error: Interrupted before it began.\n")
    finally:
        os._exit(130)


if is_the_command() and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _leave)

# `time.monotonic` when the command began, from which on its time budget counts; None elsewhere.
STARTED = time.monotonic() if is_the_command() else None
