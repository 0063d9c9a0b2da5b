"""Frames chosen for labelling, labelled and learned from, against random ones and twice as many.

    python benchmarks/selecting.py --data DIR --camvid DIR [--work DIR] [--learner head|network]
        [--pools dusk,drives,kitti,idd] [--by coverage,...] [--counts 10,20,40] [--draws 3]
        [--network espnetv2-0.5|espnetv2-2.0|espnet] [--espnet Model.py] [--size 384x192]
        [--seeds 3]

DIR are the folders of benchmarks/real.py, as is Model.py. A pool is one drive or several; of each
drive a third, in one piece, is kept for measuring: the first, the middle or the last, a seed each.
A network as published, trained on Cityscapes, looks at the rest and chooses. The true labels of the
frames that it chose stand in for a person's, and a learner of selecting_learners.py takes them up.
Random frames are drawn ``--draws`` times at each count; every other way chooses ``--chosen``
frames. What is in the work folder is kept, so that an interrupted run goes on. Writes the rows to
``--json`` and prints the page's tables.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import roadshift
import torch
from real_oracle import Pair, fitted, read, segmenter
from roadshift.adapt.selecting.choice import CHOOSERS
from roadshift.adapt.selecting.informativeness import Informativeness, informativeness
from roadshift.runtime.bundle import Bundle, open_bundle
from roadshift.runtime.labels import label_space
from selecting_learners import LEARNERS

CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {  # file, and how it is imported
    "espnetv2-0.5": (
        "espnetv2_s_0.5_city_1024x512.pth",
        {"network": "espnetv2", "arguments": {"scale": 0.5}},
    ),
    "espnetv2-2.0": (
        "espnetv2_s_2.0_city_512x256.pth",
        {"network": "espnetv2", "arguments": {"scale": 2.0}},
    ),
    "espnet": (
        "espnet_p_2_q_8.pth",
        {
            "network": "Model:ESPNet",
            "arguments": {"p": 2, "q": 8},
            "colour": "bgr",
            "mean": (72.3923111, 82.90893555, 73.15840149),
            "std": (11530.931325, 11768.98935, 11453.302785),
        },
    ),
}
MEASURED = 30  # frames of a drive at most, evenly spaced
SEEDED = ("random",)  # ways that are drawn
Drives = tuple[tuple[str, str], ...]  # folder, and the beginning of the frames' names
POOLS: dict[str, tuple[Drives, str]] = {
    "dusk": ((("dusk", "0001TP"),), "camvid11"),
    "drives": ((("dusk", "0001TP"), ("day", "0006R0"), ("day", "0016E5")), "camvid11"),
    "0016E5": ((("day", "0016E5"),), "camvid11"),
    "kitti": ((("kitti", ""),), "cityscapes19"),
    "idd": ((("idd", ""),), "idd7"),
}


@dataclass(frozen=True)
class Setting:
    """The experiment's fixed part."""

    data: Path
    camvid: Path
    work: Path
    learner: str
    network: str
    size: tuple[int, int]

    @property
    def title(self) -> str:
        return f"{self.learner}-{self.network}-{self.size[0]}x{self.size[1]}"


@dataclass(frozen=True)
class Cell:
    """One choice to be measured."""

    pool: str
    seed: int
    by: str
    count: int
    draw: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("selecting-work"))
    parser.add_argument("--learner", choices=LEARNERS, default="head")
    parser.add_argument("--pools", default="dusk,drives,kitti", help=", ".join(POOLS))
    parser.add_argument("--by", default=",".join(way for way in WAYS if way not in SEEDED))
    parser.add_argument("--counts", default="10,20,40", help="Of random frames.")
    parser.add_argument("--draws", type=int, default=3, help="Of random frames, at each count.")
    parser.add_argument("--chosen", type=int, default=20, help="Frames chosen otherwise.")
    parser.add_argument("--network", choices=CHECKPOINTS, default="espnetv2-0.5")
    parser.add_argument("--espnet", type=Path, help="test/Model.py of sacmehta/ESPNet.")
    parser.add_argument("--size", default="384x192")
    parser.add_argument("--seeds", type=int, choices=(1, 2, 3), default=3)
    parser.add_argument("--json", type=Path, default=Path("docs/results/selecting.json"))
    given = parser.parse_args()
    if given.espnet:
        sys.path.append(str(given.espnet.parent))
    width, height = map(int, given.size.split("x"))
    size = (width, height)
    setting = Setting(given.data, given.camvid, given.work, given.learner, given.network, size)
    given.work.mkdir(parents=True, exist_ok=True)
    ways = [("nothing", 0), *(("random", int(n)) for n in given.counts.split(","))]
    ways += [(by, given.chosen) for by in given.by.split(",") if by]
    cells = [
        Cell(pool, seed, by, count, draw)
        for pool in given.pools.split(",")
        for seed in range(given.seeds)
        for by, count in ways
        for draw in range(given.draws if by in SEEDED else 1)
    ]
    rows = measured(setting, cells)
    given.json.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    for pool in given.pools.split(","):
        print(f"\n{pool}\n{table([row for row in rows if row['pool'] == pool])}")


def measured(setting: Setting, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row a cell, those from the work folder that were measured before."""
    kept = setting.work / f"{setting.title}.jsonl"
    rows: dict[Cell, dict[str, Any]] = {}
    for line in kept.read_text().splitlines() if kept.exists() else ():
        row = json.loads(line)
        rows[Cell(row["pool"], row["seed"], row["by"], row["count"], row["draw"])] = row
    began, left = time.monotonic(), [cell for cell in cells if cell not in rows]
    for done, cell in enumerate(left, 1):
        rows[cell] = row_of(setting, cell)
        with kept.open("a") as file:
            file.write(json.dumps(rows[cell]) + "\n")
        rate = (time.monotonic() - began) / done
        told = f"{cell.pool} {cell.seed} {cell.by} {cell.count}: {rows[cell]['miou']:.1f}"
        print(f"{done} of {len(left)}, {rate:.0f} s each: {told}", flush=True)
    return [rows[cell] for cell in cells]


def row_of(setting: Setting, cell: Cell) -> dict[str, Any]:
    """The cell with the names of its frames and its mIoU, the mean of the drives'."""
    there = stretches(setting, cell.pool, cell.seed)
    chosen: list[int] = []
    if cell.count:
        chosen = WAYS[cell.by](there.facts, cell.count, 100 * cell.seed + cell.draw)
    found = there.learner.learnt_from(chosen, cell.seed)
    row = {**vars(cell), "learner": setting.learner, "network": setting.network}
    row |= {
        "size": setting.size,
        "miou": round(float(np.mean(list(found.values()))), 2),
        "drives": found,
    }
    return row | {"frames": [there.names[i] for i in chosen]}


@dataclass(frozen=True)
class Stretches:
    """Frames to choose from, and a learner of them that is measured on the others."""

    names: tuple[str, ...]
    facts: tuple[Informativeness, ...]
    learner: Any


@lru_cache(maxsize=1)
def stretches(setting: Setting, pool: str, seed: int) -> Stretches:
    """The pool without one third of each drive, which is the first, the middle or the last."""
    drives, space = POOLS[pool]
    start = open_bundle(imported(setting), allow_networks=("Model",))
    label_map = start.label_space.map_to(label_space(space))
    chosen_from: list[Path] = []
    held: dict[str, list[Pair]] = {}
    pairs_of = partial(map, lambda path: read(path, labels_of(path), label_map))
    for folder, begin in drives:
        root = (setting.camvid if space == "camvid11" else setting.data) / folder
        frames = sorted(p for p in (root / "images").iterdir() if p.name.startswith(begin))
        begins, ends = (len(frames) * third // 3 for third in (seed, seed + 1))
        chosen_from += frames[:begins] + frames[ends:]
        step = -(-(ends - begins) // MEASURED)
        held[begin or folder] = list(pairs_of(frames[begins:ends:step]))
    pairs = list(pairs_of(chosen_from))
    learner = LEARNERS[setting.learner](start, label_map, pairs, held)
    names = tuple(path.stem for path in chosen_from)
    return Stretches(names, tuple(looked_at(start, pairs)), learner)


def labels_of(image: Path) -> Path:
    return image.parents[1] / "labels" / f"{image.stem}.png"


def imported(setting: Setting) -> Path:
    """The published checkpoint as a bundle."""
    width, height = setting.size
    out = setting.work / f"source-{setting.network}-{width}x{height}"
    file, how = CHECKPOINTS[setting.network]
    if not out.exists():
        roadshift.import_bundle(
            setting.data / "checkpoints" / file,
            label_space="cityscapes20",
            input_size=setting.size,
            out=out,
            **how,
        )
    return out


def looked_at(bundle: Bundle, pairs: Iterable[Pair]) -> Iterable[Informativeness]:
    """Facts about the frames, as `roadshift select` finds them."""
    model = segmenter(bundle)
    for image, _ in pairs:
        with torch.no_grad():
            yield from informativeness(model.network, model.normalise, fitted(model, image))


def every_nth(frames: Sequence[Informativeness], count: int, seed: int) -> list[int]:
    """Frames evenly spaced in time, without looking at them."""
    del seed
    return [int((i + 0.5) * len(frames) / count) for i in range(min(count, len(frames)))]


WAYS: dict[str, Callable[[Sequence[Informativeness], int, int], list[int]]] = {
    **CHOOSERS,
    "every nth": every_nth,
}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The mean over the draws for each seed, with a draw's deviation, and the mean of these."""
    seeds = sorted({row["seed"] for row in rows})
    lines = ["| chosen by | frames | mIoU, each seed | mean |", "|---|---:|---|---:|"]
    for by, count in dict.fromkeys((row["by"], row["count"]) for row in rows):
        these = [row for row in rows if (row["by"], row["count"]) == (by, count)]
        means, told = [], []
        for seed in seeds:
            values = [row["miou"] for row in these if row["seed"] == seed]
            means.append(np.mean(values))
            spread = f" (± {np.std(values, ddof=1):.1f})" if len(values) > 1 else ""
            told.append(f"{means[-1]:.1f}{spread}")
        lines.append(f"| {by} | {count} | {', '.join(told)} | {np.mean(means):.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
