"""Sections about what a command measured, from the document that its ``--json`` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import ConfigError, arg
from ..words import shortened
from .charts import bars
from .html import Section, facts, passed, table, text

Document = Any  # JSON


def result_sections(results: Mapping[str, Document]) -> Iterator[Section]:
    """A section for each command's document; what has no form of its own is a table of its values.

    Args:
        results: documents by the name of the command: "eval", "bench", "compare", "judge",
            "export", "adapt".

    Raises:
        ConfigError: a document is none that the command prints.
    """
    for name, document in results.items():
        try:
            title, body = _FORMS.get(name, _plain)(document)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{arg('results')}: {shortened(repr(name))} is not the JSON document of roadshift "
                f"{name}; give each under the name of its own command."
            ) from error
        yield Section(title, body, name=f"result-{name}")


def _evaluation(document: Document) -> tuple[str, str]:
    low, high = document.get("ci95") or (None, None)
    rows = [
        ("mIoU in percent", document["miou"]),
        ("95 % interval from", low),
        ("95 % interval to", high),
        ("pixel accuracy in percent", document.get("pixel_accuracy")),
        ("frames", document.get("frames")),
    ]
    ious = [(name, value) for name, value in document["iou"].items() if value is not None]
    body = facts(rows) + bars("IoU of each class", ious, unit="%")
    return "Measured against labels", body + table(
        "IoU in percent", ["class", "IoU"], [list(pair) for pair in document["iou"].items()]
    )


def _bench(document: Document) -> tuple[str, str]:
    rows: Sequence[Mapping[str, Any]] = document
    columns = [
        *("artefact", "backend", "precision", "device", "p50_ms", "p90_ms", "p99_ms", "fps"),
        *("peak_mib", "label_agreement", "miou", "error"),
    ]
    several = len({row.get("bundle") for row in rows}) > 1
    names = [*["bundle"] * several, "artefact", "backend"]
    columns = ["bundle"] * several + columns
    shown = [c for c in columns if any(row.get(c) is not None for row in rows)]
    times = [
        (" ".join(str(row[c]) for c in names), row["p99_ms"])
        for row in rows
        if isinstance(row.get("p99_ms"), (int, float))
    ]
    return "Latency", bars("99th percentile of the time of a frame", times, unit="ms") + table(
        "Artefacts side by side", shown, [[row.get(c) for c in shown] for row in rows]
    )


_COMPARED = {
    "method": "method",
    "variant": "variant",
    "miou": "mIoU %",
    "gain": "gain",
    "seconds": "seconds",
    "peak_mib": "peak MiB",
    "classes_lost": "classes lost",
    "error": "error",
}


def _comparison(document: Document) -> tuple[str, str]:
    rows: Sequence[Mapping[str, Any]] = document
    shown = [c for c in _COMPARED if any(row.get(c) not in (None, "") for row in rows)]
    found = [(str(r["method"]), r["miou"]) for r in rows if isinstance(r.get("miou"), (int, float))]
    body = bars("mIoU in percent", found, unit="%")
    body += table(
        "Methods side by side",
        [_COMPARED[c] for c in shown],
        [[_listed(row.get(c)) for c in shown] for row in rows],
    )
    classes = list(dict.fromkeys(name for row in rows for name in row.get("iou") or {}))
    titles = [str(row["method"]) for row in rows]
    return "Methods", body + table(
        "IoU of each class in percent",
        ["class", *titles],
        [[name, *((row.get("iou") or {}).get(name) for row in rows)] for name in classes],
    )


def _listed(value: object) -> object:
    """A list as its words, for a cell."""
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else value


_SIGNS = {
    "name": "sign",
    "passed": "outcome",
    "sentence": "in words",
    "incumbent": "incumbent",
    "candidate": "candidate",
    "low": "difference from",
    "high": "to",
    "threshold": "threshold",
}


def _judgement(document: Document) -> tuple[str, str]:
    rows = [
        [passed(check[c]) if c == "passed" else check.get(c) for c in _SIGNS]
        for check in document["checks"]
    ]
    said = passed(document["decision"] == "promote", "promote", document["decision"])
    return "Judged", f"<p>{said.html}: {text(document['sentence'])}</p>" + table(
        "Signs", list(_SIGNS.values()), rows
    )


def _export(document: Document) -> tuple[str, str]:
    rows = [*document.get("artefacts", ()), *document.get("refused", ())]
    return "Exported", _records("Artefacts", rows)


def _plain(document: Document) -> tuple[str, str]:
    if isinstance(document, Mapping):
        return "Result", facts([(k, v) for k, v in document.items() if not _is_nested(v)])
    return "Result", _records("Rows", document)


def _records(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    columns = [
        name
        for name in dict.fromkeys(key for row in rows for key in row)
        if not any(_is_nested(row.get(name)) for row in rows)
    ]
    return table(title, columns, [[row.get(c) for c in columns] for row in rows]) if rows else ""


def _is_nested(value: object) -> bool:
    return isinstance(value, (Mapping, list, tuple))


_FORMS: dict[str, Callable[[Document], tuple[str, str]]] = {
    "eval": _evaluation,
    "bench": _bench,
    "compare": _comparison,
    "judge": _judgement,
    "export": _export,
}
