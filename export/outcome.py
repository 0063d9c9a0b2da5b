"""The outcome of an export, made and refused: each artefact stands alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..runtime.bundle import Artefact, Bundle
from ..runtime.errors import ParityError, RoadshiftError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Refusal:
    """An artefact that was asked for and not written."""

    path: str
    format: str
    precision: str
    error: RoadshiftError

    def row(self) -> dict[str, str]:
        """The export as ``export --json`` prints it."""
        return {
            "path": self.path,
            "format": self.format,
            "precision": self.precision,
            "error": str(self.error),
        }


def alone(
    make: Callable[[], _T], path: str, format: str, precision: str, note: Callable[[str], None]
) -> _T | Refusal:
    """The result of ``make``, or why the artefact ``path`` is refused.

    That it is refused is noted at once; the reason is for `finished`, which gives it once.
    """
    try:
        return make()
    except RoadshiftError as error:
        note(f"{path} will not be written, as the end of the export explains")
        return Refusal(path, format, precision, error)


class PartialExportError(ParityError):
    """Some of the artefacts that were asked for were refused; the others are written.

    Attributes:
        record: as `export_bundle` returns it.
    """

    def __init__(self, message: str, record: dict[str, Any]) -> None:
        super().__init__(message)
        self.record = record


def finished(
    bundle: Bundle, made: Sequence[Artefact], refused: Sequence[Refusal]
) -> dict[str, Any]:
    """The record of an export: ``{"bundle", "hash", "artefacts": [row], "refused": [row]}``.

    Raises:
        RoadshiftError: all that was asked for is one artefact, and this is why it was refused.
        PartialExportError: of several, some were refused.
    """
    record = {
        "bundle": str(bundle.path),
        "hash": bundle.hash,
        "artefacts": [export_row(artefact) for artefact in made],
        "refused": [refusal.row() for refusal in refused],
    }
    if not refused:
        return record
    if not made and len({str(refusal.error) for refusal in refused}) == 1:
        raise refused[0].error
    written = ", ".join(artefact.path for artefact in made) or "nothing"
    where = f"{bundle.path}: "
    lost: dict[str, list[str]] = {}  # by the reason, which several may share
    for refusal in refused:
        reason = refusal.error.marked.removeprefix(where).rstrip(".")
        lost.setdefault(reason, []).append(refusal.path)
    reasons = " and ".join(f"{', '.join(paths)} ({reason})" for reason, paths in lost.items())
    raise PartialExportError(f"{where}wrote {written}, and not {reasons}.", record)


def export_row(artefact: Artefact) -> dict[str, Any]:
    """An artefact as ``export --json`` prints it."""
    details = {key: value for key, value in artefact.details.items() if key != "folds"}
    parity = details.pop("parity", None)
    return {
        "path": artefact.path,
        "format": artefact.kind,
        "precision": artefact.precision,
        "bytes": artefact.bytes,
        **details,
        **(parity if isinstance(parity, dict) else {}),
    }
