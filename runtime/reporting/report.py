"""The report: one self-contained page of models and of what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ... import __version__
from ..atomic import write_whole
from ..bundle import Bundle, opened
from ..errors import ConfigError, OutputError, arg, naming
from ..given import no_path, path_of
from ..printable import encodable
from ..slots import SlotStore
from ..slots.audit import AuditRecord
from .bundles import bundle_sections
from .html import Section, code, page, paragraphs, table
from .results import result_sections

MOST_BYTES = 5_000_000

_MOST_RECORDS = 1000  # of an audit file, which grows for ever


@naming(path=OutputError)
def write_report(
    path: str | Path,
    bundles: Sequence[Bundle | str | Path] = (),
    *,
    results: Mapping[str, Any] | None = None,
    pictures: Sequence[Section] = (),
    slots: SlotStore | None = None,
) -> Path:
    """Write one HTML file that asks nobody for anything.

    It embeds, for programs, what it shows: the manifests, the results and the records of the audit
    file, as their ``--json`` is.

    Args:
        bundles: from the source model to the newest, as they were read, or their folders.
        results: documents of commands by name, see `result_sections`.
        pictures: sections of `picture_sections`.
        slots: of a vehicle, for their audit file.

    Raises:
        ConfigError: there is nothing to report on, or a result is no document of its command.
        BundleError: a bundle's history is damaged.
        SlotError: the audit file is.
        OutputError: the page would be larger than 5 MB, or cannot be written.
    """
    results = results or {}
    if not bundles and not results and slots is None:
        raise ConfigError("There is nothing to report on; give at least one bundle, or a result.")
    if isinstance(bundles, (str, Path, Bundle)):
        raise ConfigError(f"{arg('bundles')}: give a list of bundles, not one alone.")
    no_path("slots", slots, "open_slots")
    path = path_of("path", path)
    models = [opened(one, "bundles") for one in bundles]
    records = slots.audit(_MOST_RECORDS) if slots is not None else []
    sections = [
        *result_sections(results),
        *pictures,
        *bundle_sections(models),
        *([_audit(records)] if records else []),
        Section("About this page", paragraphs([f"Written by Roadshift {__version__}."])),
    ]
    names = " and ".join(bundle.path.name for bundle in models) or ", ".join(results)
    data = {
        "bundles": [
            {"path": str(b.path), "hash": b.hash, **b.manifest.model_dump(mode="json")}
            for b in models
        ],
        "results": dict(results),
        **({"audit": [asdict(record) for record in records]} if records else {}),
    }
    embedded = json.dumps(encodable(data), allow_nan=False)
    content = page(f"Roadshift: {names or 'slots'}", sections, data=embedded).encode()
    if len(content) > MOST_BYTES:
        raise OutputError(
            f"{path}: the page would have {len(content) / 1e6:.1f} MB, and at most "
            f"{MOST_BYTES / 1e6:.1f} are written; report on fewer bundles or frames."
        )
    write_whole(path, content)
    return path


def _audit(records: Sequence[AuditRecord]) -> Section:
    rows = [
        [
            record.number,
            record.at,
            record.event,
            ", ".join(f"{key}={value}" for key, value in record.details.items()),
            code(record.hash[:12]),
        ]
        for record in records
    ]
    body = table(
        "The changes, the last one last", ["number", "at", "event", "details", "hash"], rows
    )
    if rows[0][0]:
        body += paragraphs(
            [f"{rows[0][0]} records before these were checked, too; roadshift slot audit has them."]
        )
    return Section("Audit", body, name="audit")
