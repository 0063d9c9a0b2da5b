"""Files that a comparison writes: ``compare.md``, ``compare.json``, a chart and pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.atomic import write_whole
from ...runtime.bundle import open_bundle
from ...runtime.engines import open_engine
from ...runtime.frames.images import Image, read_frame_image, write_image
from ...runtime.labels import read_labels
from ...runtime.labels.spaces import LabelMap
from ...runtime.pipeline.overlay import qualitative
from ...runtime.printable import printable
from ...runtime.spacing import evenly_spaced
from .ablations import Ablation
from .bar_chart import Bar, bar_chart
from .compare import RUNS, Comparison
from .compare_rows import comparison_cells, title_of

PICTURES = 3  # frames of the strips, evenly spaced
HEIGHT = 200  # of each picture in pixels
Rows = Sequence[Mapping[str, Any]]


def write_report(
    comparison: Comparison,
    rows: Rows,
    out: Path,
    command: str,
    *,
    device: str = "auto",
    explained: Mapping[str, str] | None = None,
) -> None:
    """Write ``compare.md`` with ``compare.png`` and ``strips.png``, and ``compare.json``, the rows.

    Args:
        rows: see `comparison_rows`.
        out: the folder of the comparison.
        command: what was typed.
        device: what the pictures are made on.
        explained: pages of `explain_results`, by the variants' titles.

    Raises:
        OutputError: the folder cannot be written.
    """
    chosen = [comparison.pairs[i] for i in evenly_spaced(len(comparison.pairs), PICTURES)]
    images = [read_frame_image(image) for image, _ in chosen]
    write_image(out / "compare.png", _chart(rows))
    through = comparison.label_map
    space = through.target if through else comparison.source.label_space
    truths = [
        read_labels(path, space, size=(image.shape[1], image.shape[0]))
        for (_, path), image in zip(chosen, images, strict=True)
    ]
    columns = {"ground truth": truths, **_predictions(comparison, images, device)}
    frames = [
        (image, {name: maps[i] for name, maps in columns.items()}) for i, image in enumerate(images)
    ]
    write_image(out / "strips.png", qualitative(frames, space, height=HEIGHT))
    write_whole(out / "compare.json", (json.dumps(rows, indent=1) + "\n").encode())
    page = _page(comparison, rows, command, images, explained or {})
    write_whole(out / "compare.md", printable(page).encode())


def _chart(rows: Rows) -> NDArray[np.uint8]:
    bars = [
        Bar(title_of(comparison_cells(row)), row["miou"], row.get("miou_std"), "failed")
        for row in rows
    ]
    seeds = len(next((row["seeds"] for row in rows[1:] if row.get("seeds")), []))
    spread = f", mean and standard deviation of {seeds} seeds" if seeds > 1 else ""
    return bar_chart(bars, f"mIoU in percent{spread}; dashed: source only", rows[0]["miou"])


def _predictions(
    comparison: Comparison, images: Sequence[Image], device: str
) -> dict[str, list[NDArray[np.uint8]]]:
    """Label maps of the source model and of each method's first seed, one model at a time."""
    bundles = {"source only": comparison.source.path}
    for variant, runs in comparison.results.items():
        if runs[0].error is None:
            bundles[variant.title] = runs[0].bundle
    columns = {}
    for title, path in bundles.items():
        bundle = open_bundle(path, allow_networks=comparison.source.allow_networks)
        with open_engine(bundle, backend="torch", device=device) as engine:
            maps = [engine.segment(image) for image in images]
            through = comparison.label_map
            columns[title] = [through.apply(one) for one in maps] if through else maps
    return columns


def _page(
    comparison: Comparison,
    rows: Rows,
    command: str,
    images: Sequence[Image],
    explained: Mapping[str, str],
) -> str:
    """The Markdown page."""
    cells = [comparison_cells(row) for row in rows]
    titles = [title_of(row) for row in cells]
    table = comparison.ablation
    classes = list(rows[0]["iou"])
    failed = [
        f"- {title}: {row['error']}"
        for title, row in zip(titles, rows, strict=True)
        if "error" in row
    ]
    parts = [
        "# Methods, side by side" if table is None else f"# {table.title}",
        *([] if table is None else [_about(table)]),
        f"    {command}",
        _table(["", ""], _facts(comparison, images)),
        _table(list(cells[0]), [list(row.values()) for row in cells]),
        *(["Failed:\n\n" + "\n".join(failed)] if failed else []),
        _LEGEND + (" " + _SEEDS if "miou_std" in rows[0] else ""),
        "![mIoU of each method](compare.png)",
        "## IoU of each class",
        _table(
            ["class", *titles],
            [[name, *(row["iou"][name] for row in rows)] for name in classes],
        ),
        "## The same frames",
        "![frames, ground truth, source only and each method](strips.png)",
        *(["## Explained", "\n".join(_links(explained))] if explained else []),
        f"Seed 0. Every run's whole configuration is in `{RUNS}/{_run_names(comparison)}/"
        "manifest.json`, its bundle.",
    ]
    return "\n\n".join(parts) + "\n"


def _about(table: Ablation) -> str:
    """The sentences of a table: what it varies, where it is published, whose its values are."""
    values = "the paper's" if table.values == "paper" else f"ours. {table.note}".rstrip(".")
    after = f" After {table.reference}." if table.reference else ""
    return f"{table.method}: {table.varies}.{after} The rows are {values}."


def _run_names(comparison: Comparison) -> str:
    """Pattern of the names of runs, see `MethodVariant.run_name`."""
    what = "<method>-<variant>" if comparison.ablation is None else "<table>-<row>"
    return f"{what}-seed<n>"


def _links(explained: Mapping[str, str]) -> list[str]:
    return [f"- [{title}, beside the source model]({page})" for title, page in explained.items()]


_LEGEND = (
    "mIoU and gain over source only in percent. Seconds: warm start, pseudo-labels and steps of a "
    "run. Peak: memory of the GPU, or of the process on a CPU. A class is lost if its IoU is under "
    "1 where BN statistics (source only, if these are not compared) have it at 1 or more."
)
_SEEDS = "Mean ± sample standard deviation over the seeds; a class lost with any seed is named."


def _facts(comparison: Comparison, images: Sequence[Image]) -> list[list[object]]:
    source, runs = comparison.source, [r for rs in comparison.results.values() for r in rs]
    done = [run for run in runs if run.error is None]
    seen = source.manifest.input
    sizes = dict.fromkeys(f"{image.shape[1]}x{image.shape[0]}" for image in images)
    versions = [", ".join(f"{name} {v}" for name, v in run.versions.items()) for run in done]
    counts = dict.fromkeys(str(run.frames) for run in done)
    folder = os.path.commonpath([image.parent for image, _ in comparison.pairs])
    return [
        ["source model", f"`{source.path}`, {source.manifest.network.name}, `{source.hash}`"],
        ["target frames", f"{' or '.join(counts)} of `{'`, `'.join(comparison.frames)}`"],
        ["measured on", f"{len(comparison.pairs)} labelled images, `{folder}`"],
        *_mapping(comparison.label_map),
        ["resolution", f"predicted at {seen.width}x{seen.height}, measured at {', '.join(sizes)}"],
        ["seeds", ", ".join(dict.fromkeys(str(run.seed) for run in runs))],
        ["device", "; ".join(dict.fromkeys(run.device for run in done))],
        ["versions", "; ".join(dict.fromkeys(versions))],
    ]


def _mapping(label_map: LabelMap | None) -> list[list[object]]:
    """The label map as a row of facts, with what it lacks; none where classes stay themselves."""
    if label_map is None or label_map.is_identity:
        return []
    parts = [f"{label_map.name}, {label_map.source.name} to {label_map.target.name}"]
    if label_map.unmapped:
        parts.append(f"always wrong: {', '.join(label_map.unmapped)}")
    if label_map.unreached:
        parts.append(f"never predicted: {', '.join(label_map.unreached)}")
    return [["label map", "; ".join(parts)]]


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers with two decimals, to the right where a column has no others."""
    numeric = [
        all(isinstance(row[i], (int, float, type(None))) for row in rows)
        for i in range(len(columns))
    ]
    lines = [columns, ["---:" if right else "---" for right in numeric]]
    lines += [[_cell(value) for value in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace("|", r"\|")
