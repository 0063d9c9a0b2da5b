"""The outcome of an export, made and refused: each artefact stands alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..runtime.atomic import output_errors
from ..runtime.bundle import Artefact, Bundle, Kind, extend_bundle
from ..runtime.errors import FloorError, ParityError, RoadshiftError, Sentence

Earlier = Literal["kept", "removed"]


@dataclass(frozen=True)
class Refusal:
    """An artefact that was asked for and not written.

    Attributes:
        path: its file's name.
        format, precision: of it.
        error: why; a `FloorError` where it was made and lost too much.
        earlier: the fate of the file of that name that was in the bundle: "kept" where it was made
            of the same weights, else "removed"; None: there was none.
    """

    path: str
    format: str
    precision: str
    error: RoadshiftError
    earlier: Earlier | None = None

    def row(self) -> dict[str, Any]:
        """The refusal as ``export --json`` prints it."""
        row: dict[str, Any] = {
            "path": self.path,
            "format": self.format,
            "precision": self.precision,
            "error": Sentence(self.error.marked),  # its arguments are flags where a command prints
            "refused_by": "error",
            "earlier": self.earlier,
        }
        if isinstance(self.error, FloorError):
            error = self.error
            row |= {"refused_by": "floor", "metric": error.metric}
            row |= {"measured": error.measured, "limit": error.limit}
        return row


@dataclass(frozen=True)
class ExportOutcome:
    """The artefacts of an export, written and refused.

    Attributes:
        bundle: as it is now.
        written: those that passed and are in it.
        refused: those that did not.
    """

    bundle: Bundle
    written: tuple[Artefact, ...]
    refused: tuple[Refusal, ...]

    @property
    def exit_code(self) -> int:
        """0: all were written; 7: a floor refused some; 1: errors alone did."""
        if any(isinstance(refusal.error, FloorError) for refusal in self.refused):
            return FloorError.exit_code
        return RoadshiftError.exit_code if self.refused else 0

    def record(self) -> dict[str, Any]:
        """JSON values: ``{"bundle", "hash", "artefacts": [row], "refused": [row]}``."""
        return {
            "bundle": str(self.bundle.path),
            "hash": self.bundle.hash,
            "artefacts": [export_row(artefact) for artefact in self.written],
            "refused": [refusal.row() for refusal in self.refused],
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
    the reason is for `finished`, which gives it once. One of the same name that was made of other
    weights, or of unknown ones, leaves the bundle then: it would pass for this model's.

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
                failed.append(Refusal(name, kind, precision, error, _earlier(bundle, name)))
    finally:  # an interrupt or a bug must not take with it what took minutes
        stale = [refusal.path for refusal in failed if refusal.earlier == "removed"]
        if drafts or stale:
            bundle = _published(bundle, folder, drafts, stale)
    if refused is not None:
        refused += failed
    elif failed:
        raise failed[0].error
    return bundle


def _earlier(bundle: Bundle, name: str) -> Earlier | None:
    """The fate of an artefact whose successor is refused."""
    old = bundle.artefact(name=name)
    if old is None:
        return None
    made_of = old.details.get("weights_sha256")
    return "kept" if made_of is not None and made_of == _weights_sha256(bundle) else "removed"


def _weights_sha256(bundle: Bundle) -> str | None:
    weights = bundle.artefact(kind="weights")
    return None if weights is None else weights.sha256


def _published(
    bundle: Bundle, folder: Path, drafts: Sequence[Draft], stale: Sequence[str]
) -> Bundle:
    """The bundle with the drafts and without what is stale, in one step."""
    made_of = {"exported_from": bundle.hash, "weights_sha256": _weights_sha256(bundle)}
    with extend_bundle(bundle) as writer:
        for name in stale:
            writer.remove(name)
        for draft in drafts:
            writer.add_file(
                draft.name,
                folder / draft.name,
                kind=draft.kind,
                precision=draft.precision,
                target=draft.target,
                details={**draft.details, **made_of},
            )
        return writer.commit()


class PartialExportError(ParityError):
    """Some or all of the artefacts that were asked for were refused; the others are written.

    Attributes:
        outcome: what was written, and what was not and why.
        exit_code: of the outcome: 7 where a floor refused some, else 1.
    """

    def __init__(self, message: str, outcome: ExportOutcome) -> None:
        super().__init__(message)
        self.outcome, self.exit_code = outcome, outcome.exit_code

    @property
    def record(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return self.outcome.record()


def finished(
    bundle: Bundle, made: Sequence[Artefact], refused: Sequence[Refusal]
) -> dict[str, Any]:
    """The record of an export, see `ExportOutcome.record`.

    Raises:
        RoadshiftError: an error, which all that was asked for shares.
        PartialExportError: a floor refused some; or, of several, some were refused.
    """
    outcome = ExportOutcome(bundle, tuple(made), tuple(refused))
    if not refused:
        return outcome.record()
    reasons = {str(refusal.error) for refusal in refused}
    if not made and len(reasons) == 1:
        error = refused[0].error
        if not isinstance(error, FloorError):
            raise error
        raise PartialExportError(error.marked.rstrip(".") + _of_earlier(refused) + ".", outcome)
    written = ", ".join(artefact.path for artefact in made) or "nothing"
    where = f"{bundle.path}: "
    lost: dict[str, list[str]] = {}  # by the reason, which several may share
    for refusal in refused:
        reason = refusal.error.marked.removeprefix(where).rstrip(".")
        lost.setdefault(reason, []).append(refusal.path)
    told = " and ".join(f"{', '.join(paths)} ({reason})" for reason, paths in lost.items())
    message = f"{where}wrote {written}, and not {told}{_of_earlier(refused)}."
    raise PartialExportError(message, outcome)


_FATES = {
    "kept": "of an earlier export of the same weights is kept",
    "removed": "of other weights was removed",
}


def _of_earlier(refused: Sequence[Refusal]) -> str:
    """The end of a sentence on files of earlier exports, or nothing."""
    told = ""
    for fate, words in _FATES.items():
        if paths := [refusal.path for refusal in refused if refusal.earlier == fate]:
            told += f"; {', '.join(paths)} {words}"
    return told


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
