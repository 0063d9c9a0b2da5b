"""Frames chosen for labelling, labelled and learned from, against random ones and twice as many.

    python benchmarks/selecting.py --data DIR --camvid DIR [--work DIR] [--seeds 3]
        [--pools drives,dusk,kitti] [--by coverage,diverse,entropy,even] [--counts 5,10,20,40]
        [--scale 0.5] [--size 256x128] [--steps 60]

DIR are the folders of benchmarks/real.py. A pool is one drive or several; of each drive a third, in
one piece, is kept for measuring: the first, the middle or the last, a seed each. ESPNetv2, trained
on Cityscapes, takes mixed statistics from the rest without labels, and looks at it: that is the
model that chooses. The true labels of the frames it chose stand in for a person's, and it learns
from them as in real_oracle.py, in the road's own classes through the label map, batch norm standing
still. Random frames are drawn at every count, the others at ``--chosen``. What is in the work
folder is kept, so that an interrupted run goes on. Writes docs/results/selecting.json and prints
the page's tables.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import roadshift
import torch
from real_oracle import Pair, fine_tune, fitted, miou, read, segmenter
from roadshift.adapt.selecting.choice import CHOOSERS
from roadshift.adapt.selecting.informativeness import Informativeness, informativeness
from roadshift.runtime.bundle import open_bundle
from roadshift.runtime.labels import label_space

CHECKPOINTS = {
    0.5: "espnetv2_s_0.5_city_1024x512.pth",
    2.0: "espnetv2_s_2.0_city_512x256.pth",
}
RATE = 5e-4
MEASURED = 24  # frames of a drive at most, evenly spaced


@dataclass(frozen=True)
class Pool:
    """Drives to choose from: folder and the beginning of the frames' names; and their classes."""

    drives: tuple[tuple[str, str], ...]
    space: str


POOLS = {
    "drives": Pool((("dusk", "0001TP"), ("day", "0006R0"), ("day", "0016E5")), "camvid11"),
    "dusk": Pool((("dusk", "0001TP"),), "camvid11"),
    "kitti": Pool((("kitti", ""),), "cityscapes19"),
    "idd": Pool((("idd", ""),), "idd7"),
}


@dataclass(frozen=True)
class Setting:
    """The experiment's fixed part."""

    data: Path
    camvid: Path
    work: Path
    scale: float
    size: tuple[int, int]
    steps: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("selecting-work"))
    parser.add_argument("--seeds", type=int, default=3, help="1 to 3.")
    parser.add_argument("--pools", default="drives,dusk,kitti")
    parser.add_argument("--by", default=",".join(way for way in CHOOSERS if way != "random"))
    parser.add_argument("--counts", default="5,10,20,40", help="Of random frames.")
    parser.add_argument("--chosen", type=int, default=20, help="Frames chosen otherwise.")
    parser.add_argument("--scale", type=float, choices=CHECKPOINTS, default=0.5)
    parser.add_argument("--size", default="256x128")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", type=Path, default=Path("docs/results/selecting.json"))
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    setting = Setting(
        given.data, given.camvid, given.work, given.scale, (width, height), given.steps
    )
    ways = [("nothing", 0), *(("random", int(n)) for n in given.counts.split(","))]
    ways += [(by, given.chosen) for by in given.by.split(",") if by]
    cells = [
        (pool, seed, by, count)
        for pool in given.pools.split(",")
        for seed in range(given.seeds)
        for by, count in ways
    ]
    rows, began = [], time.monotonic()
    for done, one in enumerate(cells, 1):
        rows.append(cell(setting, *one))
        rate = (time.monotonic() - began) / done
        print(f"{done} of {len(cells)}, {rate:.0f} s each: {rows[-1]}", flush=True)
    given.json.write_text(json.dumps(rows, indent=1) + "\n")
    for pool in given.pools.split(","):
        print(f"\n{pool}\n{table([row for row in rows if row['pool'] == pool])}")


def cell(setting: Setting, pool: str, seed: int, by: str, count: int) -> dict[str, Any]:
    """One way of choosing, from its file if it was measured before."""
    about = f"{setting.scale}.{setting.size[0]}x{setting.size[1]}.{setting.steps}"
    kept = setting.work / f"{pool}.{seed}.{by}.{count}.{about}.json"
    if kept.exists():
        row: dict[str, Any] = json.loads(kept.read_text())
        return row
    there = stretches(setting, pool, seed)
    label_map = open_bundle(there.start).label_space.map_to(label_space(POOLS[pool].space))
    model = segmenter(open_bundle(there.start))
    chosen: list[int] = []
    if count:
        chosen = CHOOSERS[by](there.facts, count, seed)
        learnt = [there.pool[i] for i in chosen]
        fine_tune(
            model,
            learnt,
            label_map,
            steps=setting.steps,
            rate=RATE,
            seed=seed,
            say=lambda _: None,
        )
    found = {drive: miou(model, pairs, label_map) for drive, pairs in there.held.items()}
    row = {"pool": pool, "seed": seed, "by": by, "count": count}
    row |= {"miou": round(float(np.mean(list(found.values()))), 2), "drives": found}
    row |= {"scale": setting.scale, "size": list(setting.size), "steps": setting.steps}
    row["frames"] = [there.names[i] for i in chosen]
    kept.write_text(json.dumps(row) + "\n")
    return row


@dataclass(frozen=True)
class Stretches:
    """Frames to choose from and frames to measure on, and the model that chooses."""

    start: Path
    names: tuple[str, ...]
    pool: tuple[Pair, ...]
    facts: tuple[Informativeness, ...]
    held: dict[str, list[Pair]]


@lru_cache(maxsize=1)
def stretches(setting: Setting, pool: str, seed: int) -> Stretches:
    """The pool without one third of each drive, which is the first, the middle or the last."""
    target = label_space(POOLS[pool].space)
    source = imported(setting)
    label_map = open_bundle(source).label_space.map_to(target)
    chosen_from: list[Path] = []
    held: dict[str, list[Pair]] = {}
    for folder, begin in POOLS[pool].drives:
        root = (setting.camvid if target.name == "camvid11" else setting.data) / folder
        frames = sorted(p for p in (root / "images").iterdir() if p.name.startswith(begin))
        from_, to = (len(frames) * third // 3 for third in (seed % 3, seed % 3 + 1))
        chosen_from += frames[:from_] + frames[to:]
        step = max(1, -(-(to - from_) // MEASURED))
        held[begin or folder] = [read(p, labels_of(p), label_map) for p in frames[from_:to:step]]
    start = adapted(setting, source, pool, seed, chosen_from)
    pairs = tuple(read(p, labels_of(p), label_map) for p in chosen_from)
    return Stretches(
        start, tuple(p.stem for p in chosen_from), pairs, tuple(looked_at(start, pairs)), held
    )


def labels_of(image: Path) -> Path:
    return image.parents[1] / "labels" / f"{image.stem}.png"


def imported(setting: Setting) -> Path:
    """The published checkpoint as a bundle."""
    width, height = setting.size
    out = setting.work / f"source-{setting.scale}-{width}x{height}"
    if not out.exists():
        setting.work.mkdir(parents=True, exist_ok=True)
        roadshift.import_bundle(
            setting.data / "checkpoints" / CHECKPOINTS[setting.scale],
            network="espnetv2",
            arguments={"scale": setting.scale},
            label_space="cityscapes20",
            input_size=setting.size,
            out=out,
        )
    return out


def adapted(setting: Setting, source: Path, pool: str, seed: int, frames: Sequence[Path]) -> Path:
    """The source model with statistics mixed with those of the frames, without labels."""
    out = setting.work / f"{source.name}.{pool}.{seed}"
    if not out.exists():
        roadshift.adapt_bundle(
            source, frames, out=out, method="bn_stats", gate=False, on_note=lambda _: None
        )
    return out


def looked_at(bundle: Path, pairs: Sequence[Pair]) -> Iterator[Informativeness]:
    """Facts about the frames, as `roadshift select` finds them."""
    model = segmenter(open_bundle(bundle))
    for image, _ in pairs:
        with torch.no_grad():
            yield from informativeness(model.network, model.normalise, fitted(model, image))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Each seed's mIoU, their mean, and the mean of each drive."""
    drives = list(rows[0]["drives"])
    lines = [
        "| chosen by | frames | mIoU, each seed | mean | " + " | ".join(drives) + " |",
        "|---|---:|---|---:|" + "---:|" * len(drives),
    ]
    for by, count in dict.fromkeys((row["by"], row["count"]) for row in rows):
        these = [row for row in rows if (row["by"], row["count"]) == (by, count)]
        each = ", ".join(f"{row['miou']:.1f}" for row in these)
        means = [np.mean([row["drives"][drive] for row in these]) for drive in drives]
        mean = np.mean([row["miou"] for row in these])
        tail = " | ".join(f"{value:.1f}" for value in means)
        lines.append(f"| {by} | {count} | {each} | {mean:.1f} | {tail} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
