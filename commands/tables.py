"""Tables and sentences that commands print; those of a bench are in `bench_tables`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.console.flags import with_flags
from ..runtime.console.terminal import print_json, say, table
from ..runtime.words import counted, sized

if TYPE_CHECKING:
    from ..runtime.bundle import Bundle
    from ..runtime.verdict import Verdict


def show(document: Any, as_json: bool, in_words: Callable[[], None]) -> None:
    """Print the JSON document, or what it says in tables and sentences."""
    if as_json:
        print_json(document)
    else:
        in_words()


def listing(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print rows of equal keys, as a table or as JSON."""
    columns = list(rows[0])
    cells = [[row[column] for column in columns] for row in rows]
    show(rows, as_json, lambda: table(title, columns, cells))


def print_made(bundle: Bundle, as_json: bool) -> None:
    """Print the bundle of a run, made now or before, with its verdict where there is one."""
    origin, verdict = bundle.manifest.provenance, bundle.manifest.verdict
    outcome: Any = origin.configuration.get("outcome", {})
    search: Any = origin.configuration.get("search")
    if as_json:
        print_json(
            {
                "bundle": str(bundle.path),
                "hash": bundle.hash,
                "method": origin.method,
                "frames": origin.frames,
                "seed": origin.seed,
                "outcome": outcome,
                "verdict": verdict.record() if verdict else None,
                **({"search": search} if search else {}),
            }
        )
        return
    say(f"The bundle is {bundle.path} ({origin.method}).")
    if isinstance(outcome, dict) and outcome:
        say(
            f"{counted(outcome['steps'], 'step')} on {counted(origin.frames or 0, 'frame')} in "
            f"{outcome['seconds']:.0f} s, {outcome['precision']}, peak "
            f"{outcome['peak_memory_mib']:.0f} MiB, "
            f"{counted(outcome['skipped_steps'], 'step')} skipped."
        )
    if search:
        search_table(search)
    if verdict is not None:
        verdict_table(verdict, **run_seconds(bundle))


def search_table(search: Mapping[str, Any]) -> None:
    """Print the candidates of a search: settings, scores without labels, and the chosen one."""
    first = search["candidates"][0]
    columns = [*first["settings"], "gate", *first["scores"], "mean rank", "seconds", "chosen"]
    rows = [
        [
            *row["settings"].values(),
            row["decision"] or "failed",
            *(_figure(value) for value in row["scores"].values()),
            _figure(row["rank"]),
            row["seconds"],
            "yes" if row["settings"] == search["chosen"] else "",
        ]
        for row in search["candidates"]
    ]
    table("\nCandidates, judged without labels", columns, rows)


def run_seconds(bundle: Bundle) -> dict[str, float]:
    """Seconds of the run that made a bundle, and of its looks at the frames set aside."""
    known = {m.name: m.value for m in bundle.manifest.measured}
    return {"run_s": known.get("run_seconds", 0.0), "watch_s": known.get("watch_seconds", 0.0)}


def bundle_tables(bundle: Bundle) -> None:
    """Print what a bundle holds and comes from, and its verdict where there is one."""
    manifest = bundle.manifest
    seen, origin = manifest.input, manifest.provenance
    pixels = f"{seen.colour}, gamma {seen.gamma:g}, mean {seen.mean}, std {seen.std}"
    rows = [
        ("hash", bundle.hash),
        ("network", manifest.network.name),
        ("label space", f"{bundle.label_space.name}, {bundle.label_space.num_classes} classes"),
        ("input", f"{seen.width}x{seen.height} {pixels}"),
        ("made by", ", ".join(filter(None, (origin.method, origin.created, origin.device)))),
    ]
    known = {"parent": origin.parent, "frames": origin.frames, "seed": origin.seed}
    rows += [(name, str(value)) for name, value in known.items() if value is not None]
    rows += [(m.name, f"{m.value} {m.unit} ({m.how})") for m in manifest.measured]
    table(str(bundle.path), ["", ""], rows)
    table(
        "\nartefacts",
        ["file", "kind", "precision", "bytes", "sha256"],
        [(a.path, a.kind, a.precision, a.bytes, a.sha256[:12]) for a in manifest.artefacts],
    )
    if manifest.verdict is not None:
        verdict_table(manifest.verdict, **run_seconds(bundle))


def evaluation_table(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Per-class IoU and mIoU, percent, one column a record of the `eval` shape."""
    first = next(iter(records.values()))
    rows: list[list[object]] = [
        [name, *(record["iou"][name] for record in records.values())] for name in first["iou"]
    ]
    rows.append(["mIoU", *(record["miou"] for record in records.values())])
    rows.append(["pixel accuracy", *(record["pixel_accuracy"] for record in records.values())])
    for bound, index in (("95 % interval, low", 0), ("95 % interval, high", 1)):
        rows.append([bound, *(record["ci95"][index] for record in records.values())])
    rows.append(["frames", *(record["frames"] for record in records.values())])
    table("IoU in percent", ["class", *records], rows)
    for label_map in (record["label_map"] for record in records.values() if "label_map" in record):
        wrong = ", ".join(label_map["unmapped"]) or "none"
        say(
            f"Through the label map {label_map['name']}, from {label_map['from']} to "
            f"{label_map['to']}; unmapped classes, always wrong: {wrong}."
        )


def collected_line(summary: Mapping[str, Any]) -> list[str]:
    """The summary of `collect` as two sentences."""
    from ..runtime.collecting.collector import REASONS

    left_out = [f"{summary[key]} {said}" for key, said in REASONS.items() if summary[key]]
    engine = summary["pipeline"]
    labelled = (
        ""
        if engine is None or not engine["frames"]
        else f" The engine had labels after {engine['latency_ms']['p50']:.1f} ms (median; p99 "
        f"{engine['latency_ms']['p99']:.1f}), and {counted(engine['dropped'], 'frame')} came too "
        "soon for it."
    )
    return [
        f"{counted(summary['frames'], 'frame')} in {summary['seconds']:.1f} s: {summary['kept']} "
        f"kept{'; left out ' + ', '.join(left_out) if left_out else ''}.{labelled}",
        f"{summary['out']} holds {counted(summary['frames_kept'], 'frame')} in "
        f"{sized(summary['bytes'])} of {sized(summary['budget'])}.",
    ]


def collection_line(status: Mapping[str, Any]) -> list[str]:
    """The state of a folder of collected frames in a sentence or two."""
    from ..runtime.collecting.collector import REASONS

    counts = status["counts"]
    left_out = [f"{counts[key]} {said}" for key, said in REASONS.items() if counts.get(key)]
    lines = [
        f"{status['out']} holds {counted(status['frames_kept'], 'frame')} of "
        f"{counted(len(status['drives']), 'drive')} in {sized(status['bytes'])}."
    ]
    if counts.get("frames"):
        lines.append(
            f"Of {counts['frames']} seen, {counts.get('kept', 0)} were kept and "
            f"{counts.get('evicted', 0)} of them taken out again"
            f"{'; left out ' + ', '.join(left_out) if left_out else ''}."
        )
    if status["cut"]:
        lines.append(f"{counted(len(status['cut']), 'file')} cut short; the next drive removes it.")
    return lines


def run_line(summary: Mapping[str, Any]) -> str:
    """The summary of `run` as a sentence or two."""
    ended = {
        "end": "",
        "signal": " Stopped by a signal.",
        "duration": " Stopped at --duration.",
        "max_frames": " Stopped at --max-frames.",
        "lost": " The source was lost.",
    }[summary["ended_by"]]
    reconnects = summary["reconnects"]
    latency = summary["latency_ms"]
    return (
        f"{counted(summary['frames'], 'frame')} in {summary['seconds']:.1f} s "
        f"({summary['fps']:.1f} a second), {summary['frames_read']} read, "
        f"{summary['dropped']} dropped, {summary['frames_skipped']} skipped"
        f"{f', {reconnects} times connected again' if reconnects else ''}; "
        f"from frame to labels p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms; "
        f"{'nothing written' if summary['out'] is None else 'to ' + summary['out']}.{ended}"
    )


def comparison_table(
    rows: Sequence[Mapping[str, Any]], title: str = "Methods, side by side"
) -> None:
    """The rows of `compare`, then the sentence of each that failed."""
    from ..adapt.workflows.compare_rows import (  # torch, which `compare` has loaded
        comparison_cells,
        title_of,
    )

    cells = [comparison_cells(row) for row in rows]
    table(title, list(cells[0]), [list(row.values()) for row in cells])
    for row, shown in zip(rows, cells, strict=True):
        if "error" in row:
            say(f"{title_of(shown)}: {with_flags(row['error'])}")


def ablations_table(tables: Sequence[Mapping[str, Any]]) -> None:
    """Print the papers' tables that `compare` knows, each with how many rows it compares."""
    columns = ["name", "method", "varies", "rows", "values"]
    cells = [[*(one[c] for c in columns[:3]), len(one["rows"]), one["values"]] for one in tables]
    table("ablations", columns, cells)


CONDITIONS = (
    "The verdict holds for conditions like those of its frames alone: judge again for another "
    "light, weather or road."
)


DECISIONS = {
    "promote": "Promote the candidate",
    "keep": "Keep the incumbent",
    "ask": "Ask a person",
}


def verdict_table(verdict: Verdict, run_s: float = 0.0, watch_s: float = 0.0) -> None:
    """Every score that a verdict rests on, the verdict, and what it cost.

    Args:
        run_s: what the adaptation took, its looks at the frames set aside included; 0: none.
        watch_s: what those looks took.
    """
    rows = [
        [
            check.name,
            _figure(check.incumbent),
            _figure(check.candidate),
            None if check.low is None else f"{_figure(check.low)} to {_figure(check.high)}",
            _figure(check.threshold),
            "yes" if check.passed else "no",
            check.sentence,
        ]
        for check in verdict.checks
    ]
    if rows:
        columns = (
            "score",
            "incumbent",
            "candidate",
            "95 % interval",
            "threshold",
            "passed",
            "says",
        )
        table("\nJudged without labels", columns, rows)
    looks = f", with {watch_s:.1f} s of looks while adapting" if watch_s else ""
    share, adapting_s = "", run_s - watch_s
    if adapting_s > 0:
        percent = 100 * (verdict.seconds + watch_s) / adapting_s
        share = f": {percent:.1f} % of the {adapting_s:.0f} s that adapting took"
    say(f"{DECISIONS[verdict.decision]}: {verdict.sentence}")
    if verdict.frames:
        say(CONDITIONS)
    say(f"Judged on {counted(verdict.frames, 'frame')} in {verdict.seconds:.1f} s{looks}{share}.")


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def export_line(bundle: Path, row: Mapping[str, Any]) -> str:
    """One row of `export` as a sentence: how the artefact was made, and how it compares."""
    difference = row.get("max_difference")
    logits = "" if difference is None else f", logits differ by at most {difference:.1e}"
    miou = f", mIoU {row['miou']:.2f} %" if "miou" in row else ""
    return (
        f"{bundle / row['path']}: {row['precision']}, {_made_how(row)}, "
        f"{row['bytes'] / 2**20:.1f} MiB, same class as torch on "
        f"{row['label_agreement']:.3f} % of the pixels of {counted(row['frames'], 'frame')} "
        f"({row['compared_on']}){logits}{miou}."
    )


def _made_how(row: Mapping[str, Any]) -> str:
    """The opset of an exported artefact, or who built or refitted a plan, and in how long."""
    if row["format"] == "onnx":
        return f"opset {row['opset']}"
    refitted = "refit_s" in row
    done = f"refitted in {row['refit_s']:.1f} s" if refitted else f"built in {row['build_s']:.0f} s"
    layers = ", ".join(f"{count} in {name}" for name, count in row["layers"].items())
    return (
        f"{done} by {row['flavour']} {row['version']} for {row['gpu']}"
        f"{f' (layers: {layers})' if layers else ''}"
    )


def published_tables(result: Mapping[str, Any]) -> None:
    """Print the figures of `reproduce`: IoU by class, then published and measured.

    With several seeds each has a column, and what is measured is mean ± sample deviation.
    """
    published, before, after = result["published"], result["source_only"], result["measured"]
    seeds = {f"seed {run['seed']}": run["measured"] for run in result.get("seeds", [])}
    evaluation_table({"source only": before, **(seeds or {"adapted": after})})

    def measured(key: str) -> object:
        deviation = after.get(f"{key}_std")
        return after[key] if deviation is None else f"{after[key]:.2f} ± {deviation:.2f}"

    rows: list[tuple[str, object, object]] = [
        ("source only, mIoU", published["source_only"], before["miou"]),
        ("adapted, mIoU", published["miou"], measured("miou")),
        ("gain", _gain(published), result["gain"]),
    ]
    if "miou_13" in after:
        rows += [
            ("source only, mIoU*", published["source_only_13"], before["miou_13"]),
            ("adapted, mIoU*", published["miou_13"], measured("miou_13")),
        ]
    for model, ious, record in (
        ("source only", published["source_only_iou"], before),
        ("adapted", published["iou"], after),
    ):
        rows += [(f"{model}, {name}", iou, record["iou"][name]) for name, iou in ious.items()]
    table(f"\n{result['row']}, percent", ["", "published", "measured"], rows)


def _gain(published: Mapping[str, Any]) -> float | None:
    """Points that a published row gained; None where it has no figure of its source model."""
    before, after = published["source_only"], published["miou"]
    return None if before is None or after is None else after - before


def published_listing_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the papers' rows: figure, and what running one needs or why nothing does."""
    shown = [
        {
            "recipe": row["recipe"],
            "paper": row["paper"],
            "row": row["row"],
            "model": row["model"],
            "mIoU %": row["miou"],
            "mIoU* %": row["miou_13"],
            "mAP %": row["map_50"],
            "data": row["data"],
            "source model": row["checkpoint"] or f"no recipe: {row['note']}",
        }
        for row in rows
    ]
    table("published rows", list(shown[0]), [list(row.values()) for row in shown], width=200)


def checks_table(checks: Sequence[Mapping[str, Any]]) -> None:
    """Print the checks of `doctor`, each ok, missing and harmless, or wrong."""
    marks = {True: "ok", None: "--", False: "!!"}
    table(
        "",
        ["", "what", "found", "advice"],
        [(marks[c["ok"]], c["check"], c["found"], c["advice"]) for c in checks],
    )
