"""Signatures in a bundle's folder: where they lie, and what else may lie there."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..bundle import MANIFEST_NAME, Bundle
from ..errors import SignatureError
from ..regular_files import read_regular_file
from .envelope import Envelope, EnvelopeError, parse_envelope
from .statement import SIGNATURES, Statement, StatementError, parse_statement

PARENTS = "parents"  # inside SIGNATURES: what was signed about the models this one was made from
SUFFIX = ".sig.json"
MOST = 64  # signatures that one folder may hold
LARGEST = 1 << 20  # bytes of a signature's file

_MOST_BESIDE = 64  # files that are not listed; the first of them is named


@dataclass(frozen=True)
class Stored:
    """A signature as it was found; who made it is not checked yet."""

    path: Path
    envelope: Envelope
    statement: Statement


def stored_signatures(folder: Path) -> list[Stored]:
    """The signatures that lie in ``folder``, in the order of their names; none where it is missing.

    Raises:
        SignatureError: one cannot be read or is no signature, or there are more than `MOST`.
    """
    if not os.path.lexists(folder):
        return []
    return [
        stored_signature(folder / name)
        for name in sorted(_names(folder, MOST + 1))
        if name != PARENTS
    ]


def signature_files(bundle: Path) -> list[Path]:
    """Every file in a bundle's folder of signatures, of which there are not many.

    Raises:
        SignatureError: there are more than `MOST` in one folder, or one is no plain file.
    """
    folder = bundle / SIGNATURES
    if not os.path.lexists(folder):
        return []
    found = sorted(_below(folder))
    for path in found:
        check_plain(path)
    return found


def stored_signature(path: Path) -> Stored:
    """The signature in a file.

    Raises:
        SignatureError: it cannot be read or is no signature.
    """
    check_plain(path)
    try:
        envelope = parse_envelope(read_regular_file(path, LARGEST))
        return Stored(path, envelope, parse_statement(envelope.payload))
    except OSError as error:
        raise SignatureError(f"{path}: cannot be read ({error.strerror}).") from error
    except (EnvelopeError, StatementError) as error:
        raise SignatureError(f"{path}: is no signature of a model: {error}.") from error


def check_contents(bundle: Bundle) -> None:
    """Refuse a folder with anything that a signature over its manifest does not cover.

    Raises:
        SignatureError: a file is not listed, or is a link, through which it can be exchanged.
    """
    listed = {MANIFEST_NAME, *(artefact.path for artefact in bundle.manifest.artefacts)}
    _refuse_alike({SIGNATURES, *listed}, bundle.path)
    signature_files(bundle.path)
    for name in sorted(_names(bundle.path, len(listed) + _MOST_BESIDE)):
        path = bundle.path / name
        if name == SIGNATURES:
            continue
        if name not in listed:
            raise SignatureError(
                f"{path}: is not listed in {MANIFEST_NAME}, so no signature covers it; remove it."
            )
        check_plain(path)


def _refuse_alike(names: Iterable[str], where: Path) -> None:
    """Refuse names that some file systems take for one: by case, or by how accents are written."""
    seen = dict[str, str]()
    for name in sorted(names):
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            raise SignatureError(
                f"{where}: lists {seen[folded]!r} and {name!r}, which some file systems take for "
                "one file; rename one."
            )
        seen[folded] = name


def check_plain(path: Path) -> None:
    """Refuse all but a file that has this name alone; a link's content others can exchange.

    Raises:
        SignatureError: it is a link, a folder, a pipe or a device, or has a second name.
    """
    try:
        found = os.lstat(path)
    except OSError as error:
        raise SignatureError(f"{path}: cannot be looked at ({error.strerror}).") from error
    if stat.S_ISLNK(found.st_mode):
        raise SignatureError(f"{path}: is a symbolic link; a signed bundle holds files alone.")
    if not stat.S_ISREG(found.st_mode):
        raise SignatureError(f"{path}: is no regular file; a signed bundle holds files alone.")
    if found.st_nlink > 1:
        raise SignatureError(
            f"{path}: has a second name elsewhere (a hard link), by which it can be changed; copy "
            "the bundle."
        )


def _below(folder: Path) -> Iterator[Path]:
    """Every file of the signatures' folder; it and the parents' folder must be folders."""
    for path in (folder, folder / PARENTS):
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise SignatureError(f"{path}: is no folder; signatures lie in one.")
        if path.exists():
            yield from (path / name for name in _names(path, MOST + 1) if name != PARENTS)


def _names(folder: Path, most: int) -> list[str]:
    """Names in a folder, of which a stranger may have put any number there."""
    names = list[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) > most:
                    raise SignatureError(
                        f"{folder}: holds more than {most} files, which no signed bundle does; "
                        "copy the bundle again."
                    )
    except OSError as error:
        raise SignatureError(f"{folder}: cannot be read ({error.strerror}).") from error
    return names
