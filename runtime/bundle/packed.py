"""A bundle as one file, for updaters that carry files: a tar archive, the same bytes every time.

The files lie in it in the order of their names, without owner, time or mode of the machine that
packed them, and uncompressed: weights hardly shrink, and updaters compress by themselves. Nothing
else is read either, so that one model has one file: a byte that no hash covers would be anybody's.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..atomic import output_errors, replacing, staging_folder
from ..errors import BundleError, EngineError, SignatureError, SlotError
from ..notes import log_note
from ..regular_files import read_regular_file
from ..strict_json import LARGEST
from ..temporary_files import temporary_folder
from ..words import shortened
from .manifest import MANIFEST_NAME
from .reader import Bundle, open_bundle

SUFFIX = ".roadshift"
MOST_FILES = 1024
MOST_BYTES = 8 << 30  # of all files together

_SIGNATURES = "signatures"
_LONGEST_NAME = 4096
_LONGEST_PART = 255  # bytes of a file's own name, on Linux
_ENCODING = ("utf-8", "surrogateescape")


def pack(bundle: Bundle, path: str | Path) -> Path:
    """Write a bundle and its signatures into one file; the same bundle gives the same bytes.

    Raises:
        BundleError: a file is not the one that the manifest lists, or a signature is no plain file.
        OutputError: it cannot be written; what was there stays.
    """
    path = Path(path)
    artefacts = {artefact.path: artefact for artefact in bundle.manifest.artefacts}
    names = sorted([MANIFEST_NAME, *artefacts, *_signatures(bundle)])
    with output_errors(path), replacing(path, f".{path.name}.part") as file:
        for name in names:
            artefact = artefacts.get(name)
            content = bundle.content(artefact) if artefact is not None else _read(bundle, name)
            file.write(_header(name, len(content)))
            file.write(content)
            file.write(_filling(len(content)))
        file.write(_end(file.tell()))
    return path


def _header(name: str, size: int) -> bytes:
    """The bytes before a file in the archive, in the one way in which they are written."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry.tobuf(tarfile.GNU_FORMAT, *_ENCODING)


def _filling(size: int) -> bytes:
    """The zeros behind a file of that size, up to the next whole block."""
    return bytes(-size % tarfile.BLOCKSIZE)


def _end(at: int) -> bytes:
    """The zeros behind the last file, which ends there: two blocks, and up to a whole record."""
    return bytes(2 * tarfile.BLOCKSIZE + -(at + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE)


def _signatures(bundle: Bundle) -> Iterator[str]:
    """Names of the files in the folder of signatures, which is packed beside what is listed."""
    if (bundle.path / _SIGNATURES).is_symlink():
        raise BundleError(f"{bundle.path / _SIGNATURES}: is a symbolic link; copy the bundle.")
    for below, _, names in os.walk(bundle.path / _SIGNATURES):
        for name in names:
            yield Path(below, name).relative_to(bundle.path).as_posix()


def _read(bundle: Bundle, name: str) -> bytes:
    """The content of a file that the manifest does not list; of the manifest, as it was read."""
    file = bundle.path / name
    try:
        content = read_regular_file(file, LARGEST)
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror}).") from error
    if name == MANIFEST_NAME and hashlib.sha256(content).hexdigest() != bundle.hash:
        raise BundleError(f"{file}: was changed meanwhile; pack the bundle again.")
    return content


@contextmanager
def unpacked(
    source: Path, beside: Path | None = None, note: Callable[[str], None] = log_note
) -> Iterator[Path]:
    """The folder of a bundle: ``source`` itself, or what a packed one holds, until the block ends.

    Nothing but regular files with plain relative names is ever written, in a new folder.

    Args:
        beside: a folder on the file system to unpack on; the system's own for temporary files
            unless given.
        note: told where that is when TMPDIR names none that can be used.

    Raises:
        BundleError: the file is no packed bundle, or holds anything else than files.
        OutputError: the disk is full, or ``beside`` cannot be written.
    """
    if not os.path.isfile(source):
        yield source
        return
    with staging_folder((beside or temporary_folder(note)) / "unpacked") as folder:
        inside = folder / (source.stem.strip(".") or "bundle")  # so that messages name it
        with output_errors(folder):
            inside.mkdir()
        _unpack(source, inside)
        yield inside


@contextmanager
def named_as(source: str | Path, folder: Path) -> Iterator[None]:
    """Name what the user gave in errors about a folder that is there for a moment."""
    try:
        yield
    except (EngineError, SignatureError, SlotError, BundleError) as error:
        if str(folder) == str(source) or str(folder) not in error.marked:
            raise
        raise type(error)(error.marked.replace(str(folder), str(source))) from error


def hash_of(source: Path) -> str:
    """The hash by which a bundle is named, of its folder or a packed file.

    Of a packed one the manifest alone is read and nothing is written, so that a full disk keeps no
    updater from rolling back.

    Raises:
        BundleError: it is no bundle.
    """
    if not os.path.isfile(source):
        return open_bundle(source, verify=False).hash
    with _opened(source) as file:
        for name, size in _files(file):
            if name == MANIFEST_NAME and size <= LARGEST:
                return hashlib.sha256(_exactly(file, size)).hexdigest()
            file.seek(size, os.SEEK_CUR)
    raise BundleError(f"{source}: is not a bundle, it has no {MANIFEST_NAME}.")


def _unpack(source: Path, folder: Path) -> None:
    total = 0
    with _opened(source) as file:
        for number, (name, size) in enumerate(_files(file)):
            total += size
            if number >= MOST_FILES or total > MOST_BYTES:
                raise BundleError(f"{source}: holds too much for a bundle.")
            _unpack_one(source, file, name, size, folder)


@contextmanager
def _opened(source: Path) -> Iterator[BinaryIO]:
    """A packed bundle's file; what is wrong with it is said of ``source``."""
    try:
        with source.open("rb") as file:
            yield file
    except (tarfile.HeaderError, EOFError, ValueError) as error:
        raise BundleError(
            f"{source}: is no packed bundle (damaged, or something follows it); pack one with "
            "roadshift pack."
        ) from error
    except OSError as error:
        if error.filename is None or str(error.filename) == str(source):
            raise BundleError(f"{source}: cannot be read ({error.strerror}).") from error
        raise


def _files(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Name and size of each file in an archive; its content is to be read before the next.

    Raises:
        ValueError, EOFError, tarfile.HeaderError: a byte is another than `pack` would have written.
    """
    before = ""
    while (header := _exactly(file, tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
        entry = tarfile.TarInfo.frombuf(header, *_ENCODING)
        name, size = entry.name, entry.size
        if entry.type == tarfile.GNUTYPE_LONGNAME and 0 < size <= _LONGEST_NAME:
            text = _exactly(file, size + len(_filling(size)))
            last = _exactly(file, tarfile.BLOCKSIZE)
            header += text + last
            name = text[: size - 1].decode(*_ENCODING)
            size = tarfile.TarInfo.frombuf(last, *_ENCODING).size
        if size < 0 or name <= before or header != _header(name, size):
            raise ValueError
        before = name
        yield name, size
        if _exactly(file, len(_filling(size))) != _filling(size):
            raise ValueError
    end = _end(file.tell() - tarfile.BLOCKSIZE)[tarfile.BLOCKSIZE :]
    if file.read(len(end) + 1) != end:
        raise ValueError


def _exactly(file: BinaryIO, size: int) -> bytes:
    """The next bytes of a file; EOFError where there are fewer."""
    content = file.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _unpack_one(source: Path, file: BinaryIO, name: str, size: int, folder: Path) -> None:
    path = PurePosixPath(name)
    plain = not path.is_absolute() and ".." not in path.parts and 1 <= len(path.parts) <= 3
    plain = plain and all(len(part.encode(*_ENCODING)) <= _LONGEST_PART for part in path.parts)
    if not plain or str(path) != name or "\\" in name or "\0" in name:
        raise BundleError(
            f"{source}: holds {shortened(repr(name))}, which is no plain file; it was not packed "
            "by roadshift pack."
        )
    target = folder / path
    with output_errors(folder):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            written = target.open("xb")
        except (FileExistsError, NotADirectoryError, IsADirectoryError, UnicodeError) as error:
            raise BundleError(
                f"{source}: holds {name!r} twice or within itself; it was not packed by "
                "roadshift pack."
            ) from error
        with written:
            while size:
                block = _exactly(file, min(size, 1 << 20))
                written.write(block)
                size -= len(block)
