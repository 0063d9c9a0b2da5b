"""A bundle as one file, for updaters that carry files: a tar archive, the same bytes every time.

The files lie in it in the order of their names, without owner, time or mode of the machine that
packed them, and uncompressed: weights hardly shrink, and updaters compress by themselves.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ..atomic import output_errors, replacing
from ..errors import BundleError
from ..regular_files import read_regular_file
from .manifest import MANIFEST_NAME
from .reader import Bundle

SUFFIX = ".roadshift"
MOST_FILES = 1024
MOST_BYTES = 8 << 30  # of all files together

_EXTRA = ("signatures",)  # folders that are packed beside what the manifest lists


def pack(bundle: Bundle, path: str | Path) -> Path:
    """Write a bundle and its signatures into one file; the same bundle gives the same bytes.

    Raises:
        BundleError: a file is not the one that the manifest lists.
        OutputError: it cannot be written; what was there stays.
    """
    path = Path(path)
    with (
        output_errors(path),
        replacing(path, f".{path.name}.part") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, content in sorted(_contents(bundle)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return path


def _contents(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    yield MANIFEST_NAME, read_regular_file(bundle.path / MANIFEST_NAME, 16 << 20)
    for artefact in bundle.manifest.artefacts:
        yield artefact.path, bundle.content(artefact)
    for extra in _EXTRA:
        for below, _, names in os.walk(bundle.path / extra):
            for name in names:
                file = Path(below, name)
                content = read_regular_file(file, 16 << 20)
                yield file.relative_to(bundle.path).as_posix(), content


@contextmanager
def unpacked(source: Path, beside: Path | None = None) -> Iterator[Path]:
    """The folder of a bundle: ``source`` itself, or what a packed one holds, until the block ends.

    Nothing but regular files with plain relative names is ever written, in a new folder.

    Args:
        beside: a folder on the file system to unpack on; the system's own for temporary files
            unless given.

    Raises:
        BundleError: the file is no packed bundle, or holds anything else than files.
        OutputError: the disk is full.
    """
    if not source.is_file():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=beside) as folder:
        inside = Path(folder, source.stem or "bundle")  # so that messages name it
        inside.mkdir()
        _unpack(source, inside)
        yield inside


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
    if not entry.isreg() or not plain or "\\" in entry.name or "\0" in entry.name:
        raise BundleError(
            f"{source}: holds {entry.name!r}, which is no plain file; it was not packed by "
            "roadshift pack."
        )
    target = folder.joinpath(*name.parts)
    content = archive.extractfile(entry)
    assert content is not None
    with output_errors(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            while block := content.read(1 << 20):
                file.write(block)
