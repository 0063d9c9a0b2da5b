"""Folders and files that appear whole or not at all: staged beside, flushed, then renamed."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import OutputError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
_ABANDONED_AFTER_S = 60.0


@contextmanager
def output_errors(where: Path) -> Iterator[None]:
    """Turn an OSError into the OutputError that says what to do about ``where``."""
    try:
        yield
    except OSError as error:
        raise output_error(error, where) from error


def output_error(error: OSError, where: Path) -> OutputError:
    """The sentence for an OSError that was met while writing to ``where``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{where}: the disk is full; free some space or choose another folder.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(
            f"{where}: cannot write here ({error.strerror}); change the permissions or choose "
            "another folder."
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return OutputError(f"{where}: {where.parent} is not an existing folder; create it first.")
    return OutputError(f"{where}: cannot be written ({error.strerror or error}).")


def check_parent(path: Path) -> None:
    """Check that a file or folder may be made at ``path``, before hours are spent on it.

    Raises:
        OutputError: its parent is missing or unwritable.
    """
    parent = path.resolve().parent
    if not parent.is_dir():
        code = errno.ENOTDIR if parent.exists() else errno.ENOENT
        raise output_error(OSError(code, os.strerror(code)), path.resolve())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise output_error(OSError(errno.EACCES, os.strerror(errno.EACCES)), path)


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A fresh hidden sibling of ``target``, removed on leaving unless it was published.

    Its owner holds a lock on it, so that what a killed process left behind is told apart from what
    another process is writing, and removed. A process that was forked from its owner leaves it be.

    Raises:
        OutputError: the folder cannot be made.
    """
    owner = os.getpid()
    with output_errors(target):
        remove_abandoned(target)
        folder = target.with_name(f".{target.name}.tmp-{secrets.token_hex(4)}")
        folder.mkdir()
        lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # file systems without locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        try:
            if os.getpid() == owner:
                _remove(folder)
        finally:
            os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder, and end that before a signal is heeded that comes meanwhile."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:  # of a signal's handler, or of a thread that was told to stop
        shutil.rmtree(folder, ignore_errors=True)
        raise


def remove_abandoned(target: Path) -> None:
    """Remove what killed processes left of staging folders for ``target``, a minute after."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.tmp-*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime < _ABANDONED_AFTER_S:
                continue  # perhaps made just now and not yet locked
            lock = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the folder that has this name now; nothing is held where there is none.

    What lies there may be exchanged by whoever holds it, so a lock counts only if the folder still
    has its name when the lock is got. File systems without locks are taken as they are.
    """
    while True:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # none yet, or a file, which the caller finds out
            yield
            return
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still(descriptor, folder):
                yield
                return
        finally:
            os.close(descriptor)


def lock_folder(folder: Path) -> int:
    """A descriptor of the folder, with a lock that ends when it is closed or its process dies.

    Raises:
        OutputError: another process holds the lock.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise OutputError(
            f"{folder}: another run is writing into this folder; wait for it, or choose another."
        ) from None
    except OSError:
        pass  # a file system without locks
    return lock


def _is_still(descriptor: int, folder: Path) -> bool:
    """Tell whether an open folder still has its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def write_whole(path: Path, data: bytes) -> None:
    """Write a file: others see its old content or the new one, never a part of either.

    A symbolic link stays, and the file that it leads to is replaced. Two programs may write one.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    with output_errors(path):
        target = path.resolve()
        with replacing(target, f".{secrets.token_hex(8)}.part") as file:
            file.write(data)


@contextmanager
def replacing(path: Path, temporary: str, *, flushed: bool = True) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` when the block ends, whole or not at all.

    Args:
        temporary: its name until then, in the same folder. Where one program alone writes there,
            a name that is always the same, so that what a kill leaves is overwritten.
        flushed: wait until the disk has it, so that it is whole after a loss of power, too.

    Raises:
        OSError: it cannot be written, and ``path`` is what it was.
    """
    if not path.name:  # "." or the root
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    beside = path.with_name(temporary)
    try:
        with beside.open("wb") as file:
            yield file
            if flushed:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:  # an interruption by the user, too
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def give_name(whole: Path, name: Path) -> None:
    """Give what is whole its name in the same file system; a file of that name is replaced.

    Raises:
        OSError: nothing has changed.
    """
    os.replace(whole, name)


def remove_in_one_step(folder: Path, target: Path) -> None:
    """Remove a folder so that it is never there in part.

    What a kill leaves of it is taken for an abandoned `staging_folder` of ``target``, a sibling.

    Raises:
        OutputError: its name cannot be taken away, and nothing has changed.
    """
    rubbish = target.with_name(f".{target.name}.tmp-{secrets.token_hex(4)}")
    with output_errors(folder):
        give_name(folder, rubbish)
    shutil.rmtree(rubbish, ignore_errors=True)


def flush(path: Path) -> None:
    """Waits until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(folder: Path, target: Path, *, replace: bool) -> None:
    """Give the flushed ``folder`` the name ``target``, a sibling, in one step.

    With ``replace``, an existing ``target`` is exchanged in the same step and then removed; on file
    systems that cannot exchange it is renamed aside first, and put back if the step fails.

    Raises:
        OSError: nothing has changed.
    """
    if replace and target.exists():
        if not _exchange(folder, target):
            aside = target.with_name(f".{target.name}.old-{secrets.token_hex(4)}")
            target.rename(aside)
            try:
                folder.rename(target)
            except OSError:
                aside.rename(target)
                raise
            aside.rename(folder)
    else:
        folder.rename(target)
    with suppress(OSError):  # published already; some file systems cannot flush a folder
        flush(target.parent)
    shutil.rmtree(folder, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names atomically; False where the kernel or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))
