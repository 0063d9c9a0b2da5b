"""Every method side by side. Writes docs/results/methods.md.

    python benchmarks/methods.py --camvid DIR [--work DIR] [--seeds 3]

Two shifts: built-in scenes, daylight to night and fog; and CamVid, day to dusk (``DIR`` as for
``camvid.py``), measured on the frames of the drive itself. For each seed a ``fast_scnn`` is made
and `roadshift compare` runs every method from it with our settings for small data. For the first
seeds, some methods run again with one part changed. What is done already in the work folder is
kept, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import camvid
from machine_line import machine_line
from roadshift.adapt.methods import METHODS
from roadshift.scenes import render_dataset

SCENES = {  # domain, frames, seed of the renderer; 320x160
    "day_train": ("daylight", 240, 0),
    "day_held": ("daylight", 40, 10_000),
    "target": ("night_fog", 64, 20_000),
    "heldout": ("night_fog", 40, 30_000),
}
SCENES_SIZE = (320, 160)
SCENES_TRAIN = ("training.steps=600", "training.lr=4e-3", "training.crop_size=[256,128]")
ABLATIONS: dict[str, tuple[str, tuple[str, ...]]] = {  # method, settings; () is compare's own run
    "BN statistics": ("bn_stats", ()),
    "tone + BN statistics": ("bn_stats", ("tone=auto",)),
    "Nightshift": ("nightshift", ()),
    "without tone": ("nightshift", ("tone=none",)),
    "without Align": ("nightshift", ("nightshift.align=false",)),
    "labels from one view": ("nightshift", ("nightshift.scales=[1.0]", "nightshift.mirror=false")),
    "without ClassMix": ("nightshift", ("nightshift.mix=none",)),
    "without class weights": ("nightshift", ("nightshift.class_balance=none",)),
    "without clean statistics": ("nightshift", ("final_bn=false",)),
    "ATP": ("atp", ()),
    "Align with the paper's weights": (
        "atp",
        (
            "atp.align_entropy=0.002",
            "atp.align_focus=3.0",
            "atp.align_diversity=1.0",
        ),
    ),
}
PAGE = Path("docs/results/methods.md")
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("methods-work"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ablation-seeds", type=int, default=1)
    arguments = parser.parse_args()
    work: Path = arguments.work
    (work / "camvid").mkdir(parents=True, exist_ok=True)
    splits = camvid.make_splits(arguments.camvid, work / "camvid/frames")
    scenes = render_scenes(work / "scenes/frames")
    results: dict[str, list[list[Row]]] = {"scenes": [], "camvid": []}
    ablations: dict[str, list[dict[str, float]]] = {"scenes": [], "camvid": []}
    for seed in range(arguments.seeds):
        for shift, train, day, target, heldout in (
            ("scenes", train_on_scenes, scenes["day_train"], scenes["target"], scenes["heldout"]),
            ("camvid", camvid.train, splits["day_train"], splits["dusk_all"], splits["dusk_all"]),
        ):
            source = work / f"{shift}/source-{seed}"
            train(source, day, seed)
            results[shift].append(compare(source, target, heldout))
            if seed < arguments.ablation_seeds:
                ablations[shift].append(ablate(source, target, heldout, results[shift][-1]))
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    document = {"methods": results, "ablations": ablations}
    PAGE.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    PAGE.write_text(render(results, ablations))
    print(PAGE.read_text())


def render_scenes(folder: Path) -> dict[str, Path]:
    """Frames and labels of the built-in shift, each split with ``images`` and ``labels``."""
    width, height = SCENES_SIZE
    for split, (domain, count, seed) in SCENES.items():
        if not (folder / split).exists():
            render_dataset(
                folder / split, domain, count=count, seed=seed, width=width, height=height
            )
    return {split: folder / split for split in SCENES}


def train_on_scenes(out: Path, split: Path, seed: int) -> None:
    """A source model on daylight scenes."""
    options = [word for setting in SCENES_TRAIN for word in ("--set", setting)]
    size = "x".join(map(str, SCENES_SIZE))
    camvid.made(
        out,
        "train",
        "--images",
        split / "images",
        "--labels",
        split / "labels",
        "--label-space",
        "cityscapes19",
        "--network",
        "fast_scnn",
        "--input-size",
        size,
        *options,
        "--seed",
        seed,
    )


def compare(source: Path, adapt_on: Path, measure_on: Path) -> list[Row]:
    """Rows of `roadshift compare` over all methods."""
    document: Any = camvid.roadshift(
        "compare",
        source,
        adapt_on / "images",
        "--images",
        measure_on / "images",
        "--labels",
        measure_on / "labels",
        "--methods",
        "all",
        "--out",
        source.with_name(f"{source.name}-{adapt_on.name}"),
    )
    rows: list[Row] = document
    return rows


def ablate(
    source: Path, adapt_on: Path, measure_on: Path, compared: Sequence[Row]
) -> dict[str, float]:
    """mIoU with each of `ABLATIONS`."""
    found: dict[str, float] = {}
    for title, (method, settings) in ABLATIONS.items():
        if not settings:
            found[title] = by_method(compared)[method]["miou"]
            continue
        out = source.with_name(f"{source.name}-{title.lower().replace(' ', '-')}")
        options = [word for setting in settings for word in ("--set", setting)]
        words = ("--method", method, "--gate", "off", *options)
        camvid.made(out, "adapt", source, adapt_on / "images", *words)
        found[title] = camvid.measured(out, measure_on)["miou"]
    return found


# --- page -----------------------------------------------------------------------------------------


def render(
    results: dict[str, list[list[Row]]], ablations: dict[str, list[dict[str, float]]]
) -> str:
    """The page, with its hand-written paragraphs from ``methods_page.md`` beside it."""
    page = Path(__file__).with_name("methods_page.md").read_text()
    values = {shift: table(runs) for shift, runs in results.items()}
    values |= {f"{shift}_classes": class_table(runs) for shift, runs in results.items()}
    values["ablations"] = ablation_table(ablations)
    values["nightshift_gain"] = spread(
        [
            rows["nightshift"]["miou"] - rows["bn_stats"]["miou"]
            for rows in map(by_method, results["camvid"])
        ]
    )
    values["machine"] = machine_line()
    values["seeds"] = str(len(results["scenes"]))
    values["scenes_train"] = " ".join(f"--set {setting}" for setting in SCENES_TRAIN)
    for name, value in values.items():
        page = page.replace("{{" + name + "}}", value)
    return page


def by_method(rows: Sequence[Row]) -> dict[str, Row]:
    """Rows by name, in the order of `METHODS` after the source model."""
    return {row["method"]: row for row in rows if row.get("error") is None}


def table(runs: Sequence[Sequence[Row]]) -> str:
    """A line a method: mIoU, gains and classes lost."""
    each = [by_method(rows) for rows in runs]
    lines = [
        "| | mIoU | over source only | over BN statistics | classes lost |",
        "|---|---|---|---|---|",
    ]
    for name in ["source only", *METHODS]:
        found = [rows for rows in each if name in rows]
        if not found:
            continue
        miou = spread([rows[name]["miou"] for rows in found])
        gains = [
            spread([rows[name]["miou"] - rows[base]["miou"] for rows in found], sign=True)
            for base in ("source only", "bn_stats")
        ]
        lost = sorted({lost for rows in found for lost in rows[name]["classes_lost"]})
        lines.append(f"| {name} | {miou} | {gains[0]} | {gains[1]} | {', '.join(lost) or 'none'} |")
    return "\n".join(lines)


def class_table(runs: Sequence[Sequence[Row]]) -> str:
    """Mean IoU of each class, a column a method."""
    each = [by_method(rows) for rows in runs]
    names = [name for name in ["source only", *METHODS] if all(name in rows for rows in each)]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for label in each[0]["source only"]["iou"]:
        cells = []
        for name in names:
            values = [rows[name]["iou"][label] for rows in each]
            known = [value for value in values if value is not None]
            cells.append(f"{statistics.mean(known):.1f}" if known else "")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ablation_table(ablations: dict[str, list[dict[str, float]]]) -> str:
    """A line for each of `ABLATIONS`, a column a shift."""
    lines = ["| | CamVid | scenes |", "|---|---|---|"]
    for title in ABLATIONS:
        cells = [spread([run[title] for run in ablations[shift]]) for shift in ("camvid", "scenes")]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: Sequence[float], *, sign: bool = False) -> str:
    """Mean, and standard deviation where there are several."""
    form = "+.1f" if sign else ".1f"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{deviation}"


if __name__ == "__main__":
    main()
