"""A file under a hidden name, locked by its writer, which gets its own name once it is whole."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from .atomic import flush, give_name, output_errors
from .errors import OutputError

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class PartFile:
    """The place of a file that one run writes and that survives it.

    Args:
        path: of the finished file.
        part: of what there is of it meanwhile, in the same folder.
        kind: what it is called in sentences, such as "video".
        replace: a file that is there by the end is replaced.
        keep: gives what a dead run left under ``part`` a visible name, which is returned; None,
            and no file, where there is nothing in it.
        is_left: tells whether a part file of so many bytes is a dead run's.
        note: called with a sentence on what is kept of a dead run.

    Raises:
        OutputError: the folder is missing or cannot be written, or another run holds the lock.
    """

    def __init__(
        self,
        path: Path,
        part: Path,
        kind: str,
        *,
        replace: bool,
        keep: Callable[[], str | None],
        is_left: Callable[[int], bool] = lambda size: size > 0,
        note: Callable[[str], None],
    ) -> None:
        self._path, self._part, self._kind, self._replace = path, part, kind, replace
        self._keep, self._is_left, self._note = keep, is_left, note
        with output_errors(path):
            self._lock = self._claim()

    def publish(self) -> None:
        """Give the file its name, once it is on the disk.

        Raises:
            OutputError: the name was taken meanwhile, or the disk is full.
        """
        with output_errors(self._path):
            flush(self._part)
            self._give_name()

    def let_go(self, *others: Path) -> None:
        """Remove what is left under the hidden name and ``others``, and the lock with it."""
        for path in (self._part, *others):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        os.close(self._lock)

    def _give_name(self) -> None:
        if self._replace:
            give_name(self._part, self._path)
            return
        try:
            os.link(self._part, self._path)  # fails where the name is taken
            self._part.unlink()
        except FileExistsError:
            raise OutputError(
                f"{self._path}: was made by somebody else meanwhile; choose another name."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            give_name(self._part, self._path)

    def _claim(self) -> int:
        """The descriptor of the part file, made, empty, and locked.

        Raises:
            OutputError: another run holds the lock.
            OSError: the file cannot be made.
        """
        while True:
            lock = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if self._is_mine(lock):
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    def _is_mine(self, lock: int) -> bool:
        """Lock the part file; False where it was a dead run's, or went away meanwhile."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{self._path}: another run is writing this {self._kind}; wait for it, or choose "
                "another name."
            ) from None
        except OSError:
            pass  # a file system without locks
        try:
            if os.fstat(lock).st_ino != os.stat(self._part).st_ino:
                return False
        except FileNotFoundError:
            return False
        if not self._is_left(os.fstat(lock).st_size):
            return True
        kept = self._keep()
        if kept is not None:
            self._note(
                f"an earlier run did not finish {self._path}; what it recorded is kept as {kept}."
            )
        return False


def free_name(path: Path, ending: str, suffix: str) -> Path:
    """The first name beside ``path`` with an ending that no file has: ``out.incomplete-2.mp4``."""
    for number in count(1):
        numbered = ending if number == 1 else f"{ending}-{number}"
        found = path.with_name(f"{path.stem}.{numbered}{suffix}")
        if not found.exists():
            break
    return found
