"""A bundle as one file, for updaters that carry files: a tar archive, the same bytes every time.

The files lie in it in the order of their names, without owner, time or mode of the machine that
packed them, and uncompressed: weights hardly shrink, and updaters compress by themselves.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ..atomic import output_errors, replacing, staging_folder
from ..errors import BundleError, EngineError, SignatureError, SlotError
from ..regular_files import read_regular_file
from ..strict_json import LARGEST
from .manifest import MANIFEST_NAME
from .reader import Bundle

SUFFIX = ".roadshift"
MOST_FILES = 1024
MOST_BYTES = 8 << 30  # of all files together

_SIGNATURES = "signatures"


def pack(bundle: Bundle, path: str | Path) -> Path:
    """Write a bundle and its signatures into one file; the same bundle gives the same bytes.

    Raises:
        BundleError: a file is not the one that the manifest lists, or a signature is no plain file.
        OutputError: it cannot be written; what was there stays.
    """
    path = Path(path)
    artefacts = {artefact.path: artefact for artefact in bundle.manifest.artefacts}
    names = sorted([MANIFEST_NAME, *artefacts, *_signatures(bundle)])
    with (
        output_errors(path),
        replacing(path, f".{path.name}.part") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name in names:
            artefact = artefacts.get(name)
            content = bundle.content(artefact) if artefact is not None else _read(bundle, name)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return path


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
def unpacked(source: Path, beside: Path | None = None) -> Iterator[Path]:
    """The folder of a bundle: ``source`` itself, or what a packed one holds, until the block ends.

    Nothing but regular files with plain relative names is ever written, in a new folder.

    Args:
        beside: a folder on the file system to unpack on; the system's own for temporary files
            unless given.

    Raises:
        BundleError: the file is no packed bundle, or holds anything else than files.
        OutputError: the disk is full, or ``beside`` cannot be written.
    """
    if not os.path.isfile(source):
        yield source
        return
    with staging_folder(Path(beside or tempfile.gettempdir(), "unpacked")) as folder:
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


def _unpack(source: Path, folder: Path) -> None:
    total = 0
    try:
        with tarfile.open(source, "r:") as archive:
            for number, entry in enumerate(archive):
                total += max(entry.size, 0)
                if number >= MOST_FILES or total > MOST_BYTES:
                    raise BundleError(f"{source}: holds too much for a bundle.")
                _unpack_one(source, archive, entry, folder)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise BundleError(
            f"{source}: is no packed bundle ({error}); pack one with roadshift pack."
        ) from error
    except OSError as error:
        if error.filename is None or str(error.filename) == str(source):
            raise BundleError(f"{source}: cannot be read ({error.strerror}).") from error
        raise


def _unpack_one(
    source: Path, archive: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path
) -> None:
    name = PurePosixPath(entry.name)
    plain = not name.is_absolute() and ".." not in name.parts and 1 <= len(name.parts) <= 3
    if (
        not entry.isreg()
        or entry.issparse()
        or not plain
        or "\\" in entry.name
        or "\0" in entry.name
    ):
        raise BundleError(
            f"{source}: holds {entry.name!r}, which is no plain file; it was not packed by "
            "roadshift pack."
        )
    target = folder.joinpath(*name.parts)
    content = archive.extractfile(entry)
    assert content is not None
    with output_errors(folder):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = target.open("xb")
        except (FileExistsError, NotADirectoryError, IsADirectoryError, UnicodeError) as error:
            raise BundleError(
                f"{source}: holds {entry.name!r} twice or within itself; it was not packed by "
                "roadshift pack."
            ) from error
        with file:
            while block := content.read(1 << 20):
                file.write(block)
