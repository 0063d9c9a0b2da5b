"""Sections about bundles: what each is, where it comes from, and why it may run."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..bundle import Bundle
from ..errors import BundleError, SignatureError
from ..strict_json import JsonError, parse_json
from ..verdict import Verdict
from ..words import shortened
from .charts import lines
from .html import Section, code, details, facts, paragraphs, passed, table, text

_MOST_TERMS = 6  # of a loss in one chart
DECISIONS = {"promote": "promote", "keep": "keep the incumbent", "ask": "ask a person"}


def bundle_sections(bundles: Sequence[Bundle]) -> Iterator[Section]:
    """The lineage of all, then each one's own sections, the last one's first."""
    titles = _titles(bundles)
    if len(bundles) > 1:
        yield Section("Lineage", _lineage(bundles, titles), name="lineage")
    for number, bundle in reversed(list(enumerate(bundles))):
        yield from _about(bundle, titles[number], f"model-{number}")


def _titles(bundles: Sequence[Bundle]) -> list[str]:
    """The bundles' names; of those with the same name, their paths."""
    names = Counter(bundle.path.name for bundle in bundles)
    return [
        bundle.path.name if bundle.path.name and names[bundle.path.name] == 1 else str(bundle.path)
        for bundle in bundles
    ]


def _about(bundle: Bundle, title: str, name: str) -> Iterator[Section]:
    yield Section(title, _summary(bundle, title), name=name)
    if bundle.manifest.verdict is not None:
        body = _verdict(bundle.manifest.verdict, title)
        yield Section(f"{title}: verdict", body, name=f"{name}-verdict")
    losses = _losses(bundle)
    if losses:
        yield Section(f"{title}: losses", losses, name=f"{name}-losses")
    yield Section(f"{title}: files", _artefacts(bundle, title), name=f"{name}-files")
    if bundle.manifest.measured:
        yield Section(f"{title}: measured", _measured(bundle, title), name=f"{name}-measured")
    body = _signatures(bundle, title)
    yield Section(f"{title}: signatures", body, name=f"{name}-signatures")


def _lineage(bundles: Sequence[Bundle], titles: Sequence[str]) -> str:
    names = {bundle.hash: title for bundle, title in zip(bundles, titles, strict=True)}
    rows = []
    for bundle, title in zip(bundles, titles, strict=True):
        origin = bundle.manifest.provenance
        parent = origin.parent
        known = names.get(parent, "not on this page") if parent else "none"
        rows.append(
            [
                title,
                code(bundle.hash[:12]),
                f"{known} ({parent[:12]})" if parent else known,
                origin.method,
                origin.created,
            ]
        )
    return table("Models, each with the one that it was made from", _LINEAGE, rows)


_LINEAGE = ["model", "hash", "made from", "by", "on"]


def _summary(bundle: Bundle, title: str) -> str:
    manifest = bundle.manifest
    origin, seen = manifest.provenance, manifest.input
    arguments = ", ".join(f"{k}={v}" for k, v in manifest.network.arguments.items())
    rows: list[tuple[str, object]] = [
        ("hash", code(bundle.hash)),
        ("network", manifest.network.name + (f" ({arguments})" if arguments else "")),
        ("classes", f"{bundle.label_space.name}: {', '.join(bundle.label_space.classes)}"),
        ("input", f"{seen.width}x{seen.height}, {seen.colour}, gamma {seen.gamma:g}"),
        ("made by", origin.method),
        ("made from", code(origin.parent) if origin.parent else None),
        ("frames", origin.frames),
        ("seed", origin.seed),
        ("created", origin.created),
        ("device", origin.device),
        ("software", ", ".join(f"{name} {v}" for name, v in origin.versions.items())),
    ]
    body = facts(rows)
    if origin.configuration:
        settings = [(key, value) for key, value in _flat(origin.configuration)]
        found = table("Settings", ["setting", "value"], settings, of=title)
        body += details("Every setting", found)
    return body


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as "training.lr" and their values."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        elif isinstance(value, (list, tuple)):
            yield before + key, shortened(json.dumps(value), 500)
        else:
            yield before + key, value


def _verdict(verdict: Verdict, title: str) -> str:
    decision = passed(verdict.decision == "promote", "promote", DECISIONS[verdict.decision])
    rows = [
        [
            check.name,
            passed(check.passed),
            check.incumbent,
            check.candidate,
            check.low,
            check.high,
            check.threshold,
            check.sentence,
        ]
        for check in verdict.checks
    ]
    columns = [
        *("sign", "outcome", "incumbent", "candidate", "95 % from", "to", "threshold"),
        "in words",
    ]
    return (
        f"<p>{decision.html}: {text(verdict.sentence)}</p>\n"
        + facts([("frames", verdict.frames), ("seconds", verdict.seconds)])
        + table("Signs", columns, rows, of=title)
    )


def _losses(bundle: Bundle) -> str:
    """Charts of the recorded losses, one a stage; empty where nothing was recorded."""
    stages: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for entry in _history(bundle):
        losses = entry.get("losses")
        step, stage = entry.get("step"), str(entry.get("stage", ""))
        if isinstance(losses, Mapping) and isinstance(step, (int, float)):
            for term, value in losses.items():
                if isinstance(value, (int, float)):
                    stages[stage][term].append((step, value))
    return "".join(
        lines(
            f"Stage {stage}" if stage else "Losses",
            dict(list(terms.items())[:_MOST_TERMS]),
            x="step",
            y="Terms of the loss over the steps",
        )
        for stage, terms in stages.items()
    )


def _history(bundle: Bundle) -> Iterator[Mapping[str, Any]]:
    artefact = bundle.artefact(kind="history")
    if artefact is None:
        return
    for line in bundle.content(artefact).splitlines():
        try:
            entry = parse_json(line)
        except JsonError as error:
            raise BundleError(f"{bundle.file(artefact)}: has a line that is not JSON.") from error
        if isinstance(entry, Mapping):
            yield entry


def _artefacts(bundle: Bundle, title: str) -> str:
    rows = []
    for artefact in bundle.manifest.artefacts:
        parity = artefact.details.get("parity")
        found = parity if isinstance(parity, Mapping) else {}
        rows.append(
            [
                artefact.path,
                artefact.kind,
                artefact.precision,
                artefact.bytes,
                found.get("label_agreement"),
                found.get("max_difference"),
                found.get("compared_on"),
                code(artefact.sha256[:12]),
            ]
        )
    columns = [
        *("file", "kind", "precision", "bytes", "labels kept in percent", "largest difference"),
        *("compared on", "SHA-256"),
    ]
    return table("Files of the model", columns, rows, of=title)


def _measured(bundle: Bundle, title: str) -> str:
    rows = [[m.name, m.value, m.unit, m.how] for m in bundle.manifest.measured]
    columns = ["figure", "value", "unit", "how"]
    return table("Figures, and how they were measured", columns, rows, of=title)


def _signatures(bundle: Bundle, title: str) -> str:
    """Signatures as they lie in the bundle; whether they count, `roadshift verify` says."""
    from ..signing.statement import SIGNATURES, text_of
    from ..signing.stored import stored_signatures

    try:
        stored = stored_signatures(bundle.path / SIGNATURES)
    except SignatureError as error:
        return paragraphs([str(error)])
    if not stored:
        return paragraphs(["Nobody signed this model."])
    rows = []
    for one in stored:
        said = one.statement
        rows.append(
            [
                code(one.envelope.key_id[:12]),
                said.role,
                said.version,
                text_of(said.expires) if said.expires else "never",
                text_of(said.signed_at) if said.signed_at else None,
                passed(said.model == bundle.hash, "yes", "of an earlier state"),
            ]
        )
    columns = ["key", "as", "version", "expires", "signed", "of this model"]
    note = paragraphs(["As they are written; roadshift verify says whether they count."])
    return table("Signatures", columns, rows, of=title) + note
