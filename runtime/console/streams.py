"""Standard output and error of a command: a lost result is an error, a lost note stops nothing.

Python's own streams raise from wherever something is printed, complain once more when the
interpreter ends, and are None where the shell closed them, so that the next file opened takes their
place and gets what libraries print.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, TextIO

from ..errors import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Hide = Callable[[str], str]
_reserved: TextIO | None = None  # standard output, while one document alone may be written to it


def guard_streams(hide: Hide = str) -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` for the rest of the process.

    Afterwards printing results raises OutputError where they cannot be written, once; what is
    printed later is dropped. Printing to stderr never raises. Streams that a program has put in
    their place (a test's capture, a notebook) stay as they are.

    Args:
        hide: what every text goes through, for secrets that must not be shown.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        _occupy(descriptor, mode)  # 1 read-only: a result that is written to it fails
    if sys.stdout is sys.__stdout__:
        sys.stdout = guarded(1, sys.__stdout__, hide, lossy=False)
    if sys.stderr is sys.__stderr__:
        sys.stderr = guarded(2, sys.__stderr__, hide, lossy=True)


@contextmanager
def reserved_stdout() -> Iterator[None]:
    """Keep standard output for `results`; what anything else prints goes to stderr meanwhile.

    A network of a user's own may print while it is imported, built or run.
    """
    global _reserved
    before, _reserved = _reserved, results()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _reserved = before


def results() -> TextIO:
    """Standard output, for what a command was asked for."""
    return _reserved or sys.stdout


def guarded(descriptor: int, like: TextIO | None, hide: Hide, *, lossy: bool) -> TextIO:
    """A text stream on ``descriptor``, encoded as ``like`` is.

    Args:
        lossy: drop what cannot be written; OutputError otherwise.
    """
    file = _Descriptor(descriptor, lossy=lossy)
    screen = _Screen(
        io.BufferedWriter(file),
        encoding=like.encoding if like is not None else "utf-8",
        errors="backslashreplace",  # a letter that the terminal lacks is no reason to fail
        line_buffering=lossy or file.isatty(),
    )
    screen.hide = hide
    return screen


def _occupy(descriptor: int, mode: int) -> None:
    """Open the null device on a descriptor that is closed."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, mode)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)


class _Descriptor(io.FileIO):
    """A descriptor whose first failed write is an OutputError, or is passed over if ``lossy``."""

    def __init__(self, descriptor: int, *, lossy: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._lossy = lossy
        self._failed = False

    def write(self, data: ReadableBuffer) -> int:
        size = memoryview(data).nbytes
        if self._failed:
            return size
        try:
            while (written := super().write(data)) is None:  # not blocking, and full for now
                select.select([], [self], [])
        except OSError as error:
            self._failed = True
            if self._lossy:
                return size
            raise OutputError(
                f"Standard output cannot be written ({error.strerror}); what the command prints "
                "is lost, send it to a place that takes it."
            ) from error
        return written


class _Screen(io.TextIOWrapper):
    """Text that goes through ``hide`` before it is encoded."""

    hide: Hide

    def write(self, text: str) -> int:
        super().write(self.hide(text))
        return len(text)
