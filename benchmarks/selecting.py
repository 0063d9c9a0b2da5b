"""Frames chosen for labelling, labelled and learned from, against random ones and twice as many.

    python benchmarks/selecting.py --camvid DIR --checkpoint FILE [--work DIR] [--seeds 3]

DIR is the folder ``camvid`` and FILE the checkpoint ``espnetv2_s_0.5_city_1024x512.pth`` of
docs/results/real.md. A model learns CamVid's classes from some of the day frames. Every third dusk
frame is kept for measuring; of the others, `select_frames` chooses, their true labels stand in for
a person's, and `train_bundle` goes on from the model's weights for a fixed number of steps. What is
in the work folder is kept, so that an interrupted run goes on. Writes docs/results/selecting.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import roadshift
import torch
from roadshift.adapt.networks import build_network
from roadshift.adapt.workflows.selection import select_frames
from safetensors.torch import load_file, save_file

SIZE = (256, 128)
DAY_FRAMES, DAY_STEPS, STEPS = 40, 100, 40
WAYS = (("random", 20), ("entropy", 20), ("diverse", 20), ("random", 40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("selecting-work"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("docs/results/selecting.json"))
    given = parser.parse_args()
    day = sorted((given.camvid / "day" / "images").iterdir())
    dusk = sorted((given.camvid / "dusk" / "images").iterdir())
    linked(day[:: len(day) // DAY_FRAMES], given.work / "day")
    linked(dusk[::3], given.work / "held")
    linked([frame for i, frame in enumerate(dusk) if i % 3], given.work / "pool")
    source = given.work / "source"
    if not (source / "manifest.json").exists():
        initial = with_other_classes(given.checkpoint, given.work)
        learn(given.work / "day", initial, source, DAY_STEPS, 3e-3, 0)
    rows = [{"by": "nothing", "count": 0, "seed": 0, "miou": miou(source, given.work / "held")}]
    began, cells = time.monotonic(), [(s, *way) for s in range(given.seeds) for way in WAYS]
    for done, (seed, by, count) in enumerate(cells, 1):
        rows.append(cell(source, given.work, by, count, seed))
        rate = (time.monotonic() - began) / done
        print(f"{done} of {len(cells)}, {rate:.0f} s each: {rows[-1]}", flush=True)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


def linked(frames: Sequence[Path], out: Path) -> None:
    """A folder of links to frames and their label maps."""
    shutil.rmtree(out, ignore_errors=True)
    for frame in frames:
        labels = frame.parents[1] / "labels" / f"{frame.stem}.png"
        for kind, file in (("images", frame), ("labels", labels)):
            (out / kind).mkdir(parents=True, exist_ok=True)
            (out / kind / file.name).symlink_to(file.resolve())


def with_other_classes(checkpoint: Path, work: Path) -> Path:
    """The checkpoint's weights in a network of CamVid's classes, whose classifier is new."""
    torch.manual_seed(0)
    roadshift.import_bundle(
        checkpoint,
        network="espnetv2",
        arguments={"scale": 0.5},
        label_space="cityscapes20",
        out=work / "cityscapes",
        overwrite=True,
    )
    published = load_file(work / "cityscapes" / "model.safetensors")
    state = build_network("espnetv2", 11, scale=0.5).state_dict()
    fitting = {n: t for n, t in published.items() if n in state and t.shape == state[n].shape}
    out = work / "initial.safetensors"
    save_file({**{n: t.contiguous() for n, t in state.items()}, **fitting}, out)
    return out


def learn(pairs: Path, initial: Path, out: Path, steps: int, lr: float, seed: int) -> None:
    """A model from labelled frames."""
    roadshift.train_bundle(
        pairs / "images",
        pairs / "labels",
        network="espnetv2",
        arguments={"scale": 0.5},
        label_space="camvid11",
        input_size=SIZE,
        initial=initial,
        training=roadshift.TrainingConfig(steps=steps, lr=lr),
        seed=seed,
        out=out,
        overwrite=True,
        on_note=lambda _: None,
    )


def miou(bundle: Path, pairs: Path) -> float:
    """mIoU on labelled frames, in percent."""
    with roadshift.open_engine(bundle) as engine:
        found = roadshift.evaluate(engine, pairs / "images", pairs / "labels")
    return float(found.record()["miou"])


def cell(source: Path, work: Path, by: str, count: int, seed: int) -> dict[str, Any]:
    """One way of choosing, from its file if it was measured before."""
    kept = work / f"{by}.{count}.{seed}.json"
    if kept.exists():
        row: dict[str, Any] = json.loads(kept.read_text())
        return row
    selection = select_frames(
        source,
        work / "pool" / "images",
        out=work / "selection",
        tool="cityscapes",
        count=count,
        by=by,
        seed=seed,
        overwrite=True,
        on_note=lambda _: None,
    )
    chosen = work / "chosen"
    names = {name for name, _ in selection.frames}
    pool = sorted((work / "pool" / "images").iterdir())
    shutil.rmtree(chosen, ignore_errors=True)
    for frame in pool:
        if frame.stem in names:
            for kind, suffix in (("images", ".jpg"), ("labels", ".png")):
                (chosen / kind).mkdir(parents=True, exist_ok=True)
                file = work / "pool" / kind / f"{frame.stem}{suffix}"
                (chosen / kind / file.name).symlink_to(file.resolve())
    learn(chosen, source / "model.safetensors", work / "learned", STEPS, 1e-3, seed)
    row = {"by": by, "count": count, "seed": seed, "miou": miou(work / "learned", work / "held")}
    kept.write_text(json.dumps(row) + "\n")
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean mIoU and deviation over the seeds."""
    lines = ["| chosen by | frames | mIoU |", "|---|---:|---:|"]
    for by, count in dict.fromkeys((row["by"], row["count"]) for row in rows):
        values = [row["miou"] for row in rows if (row["by"], row["count"]) == (by, count)]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        lines.append(f"| {by} | {count} | {statistics.mean(values):.1f}{spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
