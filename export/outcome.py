"""The outcome of an export, made and refused: each artefact stands alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.atomic import output_errors
from ..runtime.bundle import Artefact, Bundle, Kind, extend_bundle
from ..runtime.errors import ParityError, RoadshiftError


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


@dataclass(frozen=True)
class Draft:
    """An artefact that lies in a scratch folder, was judged and is not yet published."""

    name: str
    kind: Kind
    precision: str
    target: str
    details: dict[str, Any]


def publish_each(
    bundle: Bundle,
    folder: Path,
    names: Mapping[str, str],
    kind: Kind,
    make: Callable[[str], Sequence[Draft]],
    note: Callable[[str], None],
    refused: list[Refusal] | None,
) -> Bundle:
    """The bundle with what ``make`` gives for each precision, all published at once.

    Those that pass are published whatever ends the others. That one is refused is noted at once;
    the reason is for `finished`, which gives it once.

    Args:
        folder: that the drafts' files lie in.
        names: of the files, by the precision.
        refused: takes what was not written, and why; None: that is raised.
    """
    failed: list[Refusal] = []
    drafts: list[Draft] = []
    try:
        for precision, name in names.items():
            try:
                with output_errors(bundle.path):
                    drafts += make(precision)
            except RoadshiftError as error:  # noqa: PERF203 - the others are made all the same
                note(f"{name} will not be written, as the end of the export explains")
                failed.append(Refusal(name, kind, precision, error))
    finally:  # an interrupt or a bug must not take with it what took minutes
        if drafts:
            bundle = _published(bundle, folder, drafts)
    if refused is not None:
        refused += failed
    elif failed:
        raise failed[0].error
    return bundle


def _published(bundle: Bundle, folder: Path, drafts: Sequence[Draft]) -> Bundle:
    with extend_bundle(bundle) as writer:
        for draft in drafts:
            writer.add_file(
                draft.name,
                folder / draft.name,
                kind=draft.kind,
                precision=draft.precision,
                target=draft.target,
                details={**draft.details, "exported_from": bundle.hash},
            )
        return writer.commit()


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
