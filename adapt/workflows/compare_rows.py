"""Rows of a comparison's table: figures of the source model and of each variant."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ...runtime.errors import Sentence, marked
from ...runtime.labels.metrics import mapped_through
from .ablations import SOURCE_ONLY
from .compare import Comparison, VariantRun
from .method_variants import MethodVariant

FOUND = 1.0  # percent IoU from which a class counts as found
Ious = Mapping[str, float | None]


def classes_lost(iou: Ious, reference: Ious) -> list[str]:
    """Classes that ``reference`` finds (IoU of at least 1 percent) and ``iou`` does not."""
    return [
        name
        for name, before in reference.items()
        if (before or 0.0) >= FOUND and (iou[name] or 0.0) < FOUND
    ]


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The rows of `roadshift compare`, as JSON values: source only first, then as chosen.

    Each row holds "method", "variant", "miou", "gain" (over source only), "iou" (by class; percent,
    these three), "seconds", "steps_per_s", "peak_mib", "collapsed" and "classes_lost". With several
    seeds these are means (``iou`` over the seeds in which the class occurs, ``classes_lost`` in any
    of them), "miou_std" and "gain_std" are sample standard deviations, and "seeds" has the same
    keys for each seed. A method that failed has "error"; its figures are those of the seeds that
    did not, or None. Each row has the "label_map" that it was measured through, if there is one,
    and of an ablation its title, "row".

    Classes are lost against BN statistics of the same seed if they are compared and the row is not
    theirs, since that is what every method has for nothing; else against source only.
    """
    before = comparison.before
    several = any(len(runs) > 1 for runs in comparison.results.values())
    source = _figures(before, before, before, seconds=0.0)
    if several:
        source |= {"miou_std": None, "gain_std": None, "seeds": []}
    through = mapped_through(comparison.label_map)
    titled = comparison.ablation is not None
    first = {"row": SOURCE_ONLY} if titled else {}
    rows = [{**first, "method": SOURCE_ONLY, "variant": None, **source, **through}]
    for variant, runs in comparison.results.items():
        each = [
            _figures(
                run.evaluation,
                before,
                _reference(comparison, variant, run.seed),
                seconds=run.seconds,
                steps_per_s=run.steps_per_s,
                peak_mib=run.peak_mib,
            )
            for run in runs
            if run.error is None
        ]
        first = {"row": variant.title} if titled else {}
        row = {
            **first,
            "method": variant.method,
            "variant": variant.name,
            **_mean(each, before),
        }
        if several:
            seeds = [run.seed for run in runs if run.error is None]
            row |= {
                "miou_std": _deviation([figures["miou"] for figures in each]),
                "gain_std": _deviation([figures["gain"] for figures in each]),
                "seeds": [{"seed": s, **f} for s, f in zip(seeds, each, strict=True)],
            }
        if errors := _errors(runs):
            row["error"] = errors
        rows.append(row | through)
    return rows


def comparison_cells(row: Mapping[str, Any]) -> dict[str, object]:
    """One row of `compare` as cells by heading: mean ± deviation where there are several seeds."""
    variant = row["variant"]
    ours = variant in (None, "roadshift")

    def spread(key: str) -> object:
        value, deviation = row[key], row.get(f"{key}_std")
        return value if None in (value, deviation) else f"{value:.2f} ± {deviation:.2f}"

    lost = "failed" if "error" in row and row["miou"] is None else row["classes_lost"] or "none"
    title = row["method"] if ours else f"{row['method']}:{variant}"
    return {
        "row" if "row" in row else "method": row.get("row", title),
        "mIoU %": spread("miou"),
        "gain": spread("gain"),
        "seconds": row["seconds"],
        "steps/s": row["steps_per_s"],
        "peak MiB": row["peak_mib"],
        "classes lost": lost,
    }


def title_of(cells: Mapping[str, object]) -> str:
    """The title of a row, from its cells: that of an ablation's row, or the method's."""
    return str(cells["row"] if "row" in cells else cells["method"])


def _figures(
    record: Mapping[str, Any],
    before: Mapping[str, Any],
    reference: Mapping[str, Any],
    *,
    seconds: float,
    steps_per_s: float | None = None,
    peak_mib: float | None = None,
) -> dict[str, Any]:
    lost = classes_lost(record["iou"], reference["iou"])
    return {
        "miou": record["miou"],
        "gain": record["miou"] - before["miou"],
        "iou": dict(record["iou"]),
        "seconds": seconds,
        "steps_per_s": steps_per_s,
        "peak_mib": peak_mib,
        "collapsed": bool(lost),
        "classes_lost": lost,
    }


def _reference(comparison: Comparison, variant: MethodVariant, seed: int) -> Mapping[str, Any]:
    """The `eval` record that tells which classes there are to lose."""
    for other, runs in comparison.results.items():
        if other.method == "bn_stats" and variant.method != "bn_stats":
            for run in runs:
                if run.seed == seed and run.error is None:
                    return run.evaluation
    return comparison.before


def _mean(each: Sequence[Mapping[str, Any]], before: Mapping[str, Any]) -> dict[str, Any]:
    """One row's figures of those of its seeds; None where there are none."""
    classes = list(before["iou"])
    lost = [name for name in classes if any(name in figures["classes_lost"] for figures in each)]
    return {
        "miou": _average(figures["miou"] for figures in each),
        "gain": _average(figures["gain"] for figures in each),
        "iou": {name: _average(figures["iou"][name] for figures in each) for name in classes},
        "seconds": _average(figures["seconds"] for figures in each),
        "steps_per_s": _average(figures["steps_per_s"] for figures in each),
        "peak_mib": _average(figures["peak_mib"] for figures in each),
        "collapsed": bool(lost) if each else None,
        "classes_lost": lost,
    }


def _average(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _errors(runs: Sequence[VariantRun]) -> str | None:
    """The runs' errors, each once, with its seeds where not all runs have it."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        if run.error is not None:
            seeds.setdefault(run.error, []).append(str(run.seed))
    said = [
        ("" if len(which) == len(runs) else f"Seed {', '.join(which)}: ") + marked(error)
        for error, which in seeds.items()
    ]
    return Sentence(" ".join(said))
