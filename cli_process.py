"""The process around a command: its streams, its signals, and how it ends."""

from __future__ import annotations

import atexit
import errno
import io
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import typer

from .cli_start import is_the_command
from .runtime.addresses import hiding
from .runtime.console.flags import flag_of
from .runtime.console.signals import Unwinding, ending_at_second_interrupt, unwind_on_signals
from .runtime.console.streams import guard_streams
from .runtime.errors import RoadshiftError, RunInterrupted
from .runtime.file_names import is_utf8
from .runtime.printable import one_line, printable
from .runtime.words import shortened

_LONG_WORD = re.compile(r"\S{1000,}")

# A command line that cannot be parsed; the name of its class is not public in every version.
_BadCommandLine: type[Exception] = typer.BadParameter.__mro__[2]

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EROFS: "its file system is read-only; choose another folder",
    errno.EACCES: "permission denied; change its permissions or choose another",
    errno.EPERM: "not permitted; change its permissions or choose another",
    errno.ENAMETOOLONG: "the name is too long for its file system; give a shorter one",
    errno.ELOOP: "symbolic links lead in a circle; give the file or folder itself",
    errno.EIO: "the device failed to read or write; check the disk",
    errno.ESTALE: "its file server lost it; mount it again",
    errno.EMFILE: "too many files are open; raise the limit with `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine; close some programs",
    errno.ENOMEM: "there is not enough memory; close some programs",
}


def exit_code(app: Callable[..., object]) -> int:
    """Run the application on ``sys.argv`` and give its exit code.

    What a user can fix is one line on stderr; so is a signal that ended the command (130). What is
    a bug keeps its traceback.
    """
    guard_streams(hiding(sys.argv[1:]))
    handler = _Notes()
    logger = logging.getLogger("roadshift")
    logger.addHandler(handler)
    if is_the_command():
        sys.unraisablehook = _unraisable
    try:
        return _signalled(app)
    except KeyboardInterrupt:  # between the handlers' coming and the command's, or at its end
        if not is_the_command():
            raise
        _complain("Stopped by a signal before its end.")
        return 130
    finally:
        logger.removeHandler(handler)
        if is_the_command():  # nothing is left to clean up
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def leave(code: int) -> NoReturn:
    """End the process with ``code`` as `sys.exit` does, but leave torch's objects to the system.

    Python takes them apart one by one, which costs a second of a core after the last line, and a
    time budget is kept by when the process ends. What it does before is done all the same: threads
    are waited for, functions registered with ``atexit`` called, streams flushed.
    """
    if not (is_the_command() and "torch" in sys.modules):
        sys.exit(code)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError, RoadshiftError):  # nobody reads any more
                stream.flush()
    os._exit(code)


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """Tell of an exception that nobody can catch, but not of an interrupt; see `stop_on_signals`.

    Python's own import has finalisers in which one may be lost.
    """
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)


def _signalled(app: Callable[..., object]) -> int:
    """Run the application with handlers for signals."""
    with unwind_on_signals() as unwinding:
        if not is_the_command():
            return _run(app, unwinding)
        with ending_at_second_interrupt(b"error: Interrupted twice; stopped at once.\n"):
            return _run(app, unwinding)


def _run(app: Callable[..., object], unwinding: Unwinding) -> int:
    try:
        result = app(standalone_mode=False)
        code = result if isinstance(result, int) else 0
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException as error:
        if unwinding.by is None or isinstance(error, RunInterrupted):
            return _ended_by(error)
    else:
        if unwinding.by is None:
            return code
    _complain(f"Stopped by {unwinding.by.name} before its end.")
    # CPython takes an interrupt within exec() of a text, as dataclasses use, for one that was not
    # handled, and would end by the signal and not with the exit code; another exec() corrects it.
    exec("")
    return 130


def _ended_by(error: BaseException) -> int:
    """The exit code for an exception, told in one line; a bug is raised again."""
    if isinstance(error, _BadCommandLine):
        told = io.StringIO()
        error.show(told)  # type: ignore[attr-defined]
        _write(printable(re.sub("^Error: ", "error: ", told.getvalue(), count=1, flags=re.M)))
        return int(error.exit_code)  # type: ignore[attr-defined]
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, RoadshiftError):
        _complain(error.told(flag_of))
        return error.exit_code
    sentence = _circumstance(error)
    if sentence is None:
        raise error
    _complain(sentence)
    return 1


def _circumstance(error: BaseException) -> str | None:
    """A sentence for what the machine or a name refuses, wherever it is met; None for a bug."""
    if isinstance(error, OSError) and error.errno in _ADVICE:
        where = error.filename
        name = os.fsdecode(where) if isinstance(where, (str, bytes, os.PathLike)) else "A file"
        return f"{name}: {_ADVICE[error.errno]}."
    if isinstance(error, UnicodeEncodeError) and not is_utf8(error.object):
        return (
            f"{error.object}: this name holds bytes that are no UTF-8, which a library that reads "
            "or writes it does not take; rename it."
        )
    if isinstance(error, ImportError) and "cannot open shared object file" in str(error):
        return (
            f"{error}. A package needs this library of the system; on Debian and Ubuntu, "
            "`apt-get install libgl1 libglib2.0-0` brings those that OpenCV needs."
        )
    exhausted = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if isinstance(error, MemoryError) or exhausted:
        said = f" ({error})" if str(error) else ""
        return (
            f"There is not enough memory{said}; give smaller or fewer frames, a smaller batch, "
            "or a machine with more."
        )
    return None


def _complain(sentence: str) -> None:
    _write(f"error: {one_line(sentence)}\n")


def _write(text: str) -> None:
    """Text on stderr, where there is one, with words of a thousand characters shortened."""
    if sys.stderr is not None:
        sys.stderr.write(_LONG_WORD.sub(lambda found: shortened(found[0]), text))
        sys.stderr.flush()


class _Notes(logging.Handler):
    """Warnings of the package as notes, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from .runtime.console.terminal import note

        note(record.getMessage() if record.args else record.msg)  # a `Sentence` stays one
