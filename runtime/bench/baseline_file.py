"""The file of a baseline: read with every value checked, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..atomic import output_errors, write_whole
from ..errors import ConfigError, OutputError, arg
from ..file_names import check_name
from ..printable import encodable
from ..strict_json import JsonError, read_json
from .row import COLUMNS

SCHEMA: Literal[1] = 1
_KEYS = {"schema", "machine", "versions", "rows"}  # of baselines of all versions


class _Row(BaseModel):
    """A measured row; of its columns those that a comparison looks at."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    artefact: str | None
    backend: str
    precision: str | None
    device: str
    scenario: str
    frames: str | int | None
    threads: int | None
    p50_ms: float | None
    p99_ms: float | None
    peak_mib: float | None
    gpu_mib: float | None
    label_agreement: float | None
    miou: float | None
    error: None
    bundle: str | None = None


class _Document(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    schema_: Literal[1]
    machine: dict[str, str | int | float | None]
    versions: dict[str, str]
    rows: list[_Row]


def check_can_save(path: Path) -> None:
    """Refuse a place for a baseline before a long run.

    Raises:
        OutputError: it cannot be written, or holds something else than a baseline or nothing.
    """
    check_name(path)
    with output_errors(path), TemporaryFile(dir=path.parent):
        pass
    _check_ours(path)


def write_baseline(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    machine: Mapping[str, Any],
    versions: Mapping[str, str],
) -> None:
    """Write the rows that were measured as JSON, in place of an older baseline.

    Raises:
        OutputError: see `check_can_save`.
    """
    document = {
        "schema": SCHEMA,
        "machine": machine,
        "versions": versions,
        "rows": [row for row in rows if row["error"] is None],
    }
    _check_ours(path)
    text = json.dumps(encodable(document), indent=1, allow_nan=False) + "\n"
    write_whole(path, text.encode())


def load_baseline(path: Path) -> dict[str, Any]:
    """A file of `write_baseline`.

    Raises:
        ConfigError: it is missing, or something else.
    """
    remedy = "make one with `roadshift bench --save`"
    try:
        document = read_json(path)
    except (OSError, JsonError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(
            f"{arg('baseline')} {path}: cannot be read ({reason}); {remedy}."
        ) from error
    problem = _problem(document)
    if problem is not None:
        raise ConfigError(
            f"{arg('baseline')} {path}: is no baseline of this version ({problem}); {remedy}."
        )
    return dict(document)


def _check_ours(path: Path) -> None:
    """Refuse to replace what is neither a baseline nor an empty file."""
    with output_errors(path):
        if not path.exists() or (path.is_file() and path.stat().st_size == 0):
            return
        try:
            document = read_json(path) if path.is_file() else None
            ours = isinstance(document, dict) and document.keys() >= _KEYS
        except JsonError:
            ours = False
    if not ours:
        raise OutputError(
            f"{path}: exists and is no baseline, so it is never overwritten; choose another name."
        )


def _problem(document: Any) -> str | None:
    """The fault of a document as a baseline, a phrase; None where it is one."""
    if not isinstance(document, dict):
        return "it is no JSON object"
    if document.get("schema") != SCHEMA or isinstance(document.get("schema"), bool):
        return f"its schema is not {SCHEMA}"
    try:
        _Document.model_validate({**document, "schema_": SCHEMA})
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    for number, row in enumerate(document["rows"]):
        if lacking := [column for column in COLUMNS if column not in row]:
            return f"rows.{number} lacks {lacking[0]}"
    return None
