"""A long drive, collected: adapt to what was kept, against all of it, every nth and random frames.

    python benchmarks/collecting.py --data DIR --camvid DIR [--work DIR] [--seeds 3]
                                    [--roads dusk,kitti] [--methods bn_stats,nightshift]

A drive is made of half of a road's real frames: each is seen several times, shifted, brighter or
darker and noisy, as a camera gives it at a walking pace; then the car stands in front of one of
them for a long while, and goes through a tunnel without light. The model adapts to the drive, or to
half of its frames at most, and is measured on the road's other frames, which have labels. DIR are
the folders of benchmarks/real.py. What is in the work
folder is kept, so that an interrupted run goes on. Writes docs/results/collecting.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import roadshift
from numpy.typing import NDArray
from roadshift.runtime.collecting.collector import Collector
from roadshift.runtime.collecting.store import FrameStore
from roadshift.runtime.frames import Frame
from roadshift.runtime.frames.images import read_image

Image = NDArray[np.uint8]
SIZE = (256, 128)
TIMES, STANDSTILL, TUNNEL = 4, 140, 40  # frames: of each place, of the standstill, of the tunnel
STEPS = 60
SPACES = {"dusk": "camvid11", "kitti": "cityscapes19", "idd": "idd7"}
_PERIOD_NS = 100_000_000
WAYS = ("all", "every nth", "random", "collect")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("collecting-work"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--roads", default="dusk,kitti")
    parser.add_argument("--methods", default="bn_stats,nightshift")
    parser.add_argument("--json", type=Path, default=Path("docs/results/collecting.json"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    source = source_model(arguments.data, arguments.work)
    rows, began = [], time.monotonic()
    cells = [
        (method, road, seed, way)
        for method in arguments.methods.split(",")
        for seed in range(arguments.seeds)
        for road in arguments.roads.split(",")
        for way in WAYS
    ]
    for done, (method, road, seed, way) in enumerate(cells, 1):
        folder = arguments.camvid / "dusk" if road == "dusk" else arguments.data / road
        rows.append(cell(source, folder, arguments.work, method, road, seed, way))
        rate = (time.monotonic() - began) / done
        print(f"{done} of {len(cells)}, {rate:.0f} s each: {rows[-1]}", flush=True)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


def source_model(data: Path, work: Path) -> Path:
    """The bundle of the published checkpoint, imported unless it was before."""
    source = work / "source"
    if not (source / "manifest.json").exists():
        roadshift.import_bundle(
            data / "checkpoints" / "espnetv2_s_0.5_city_1024x512.pth",
            network="espnetv2",
            arguments={"scale": 0.5},
            label_space="cityscapes20",
            input_size=SIZE,
            out=source,
        )
    return source


def cell(
    source: Path, folder: Path, work: Path, method: str, road: str, seed: int, way: str
) -> dict[str, Any]:
    """mIoU of one way of choosing, from its file if it was measured before."""
    kept = work / f"{road}.{seed}.{way}.{method}.json".replace(" ", "-")
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    held = work / road / "held"
    pairs = sorted((folder / "images").iterdir(), key=lambda path: path.name)
    learn, measure = pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
    if not held.exists():
        for image in measure:
            label = folder / "labels" / f"{image.stem}.png"
            for kind, file in (("images", image), ("labels", label)):
                (held / kind).mkdir(parents=True, exist_ok=True)
                (held / kind / file.name).symlink_to(file.resolve())
    drive = work / road / f"drive-{seed}"
    if not (drive / "done").exists():
        shutil.rmtree(drive, ignore_errors=True)
        make_drive(learn, drive, seed)
        (drive / "done").touch()
    chosen = chosen_frames(drive, way, seed)
    if not chosen.exists():
        raise SystemExit(f"{chosen} is missing")
    bundle = kept.with_suffix("")
    roadshift.adapt_bundle(
        source,
        chosen,
        out=bundle,
        method=method,
        seed=seed,
        gate=False,
        training=None if method == "bn_stats" else roadshift.TrainingConfig(steps=STEPS),
        overwrite=True,
        on_note=lambda _: None,
    )
    with roadshift.open_engine(bundle) as engine:
        record = roadshift.evaluate(
            engine, held / "images", held / "labels", label_space=SPACES[road]
        ).record()
    row = {"method": method, "road": road, "seed": seed, "way": way, "miou": record["miou"]}
    row["frames"] = len(list(chosen.glob("*.jpg")))
    kept.write_text(json.dumps(row) + "\n")
    shutil.rmtree(bundle)
    return row


def make_drive(frames: Sequence[Path], out: Path, seed: int) -> None:
    """Pictures of a drive in the order of their names."""
    rng = np.random.default_rng(seed)
    images = [np.asarray(cv2.imread(str(path)), np.uint8) for path in frames]
    moving = [(image, 0.02) for image in images for _ in range(TIMES)]
    stop, tunnel = (int(n) for n in rng.integers(0, len(images), 2))
    standing = [(images[stop], 0.0)] * STANDSTILL
    dark = [((images[tunnel] * 0.04).astype(np.uint8), 0.02)] * TUNNEL
    moving[stop * TIMES : stop * TIMES] = standing
    moving[tunnel * TIMES : tunnel * TIMES] = dark
    out.mkdir(parents=True)
    for number, (image, shift) in enumerate(moving):
        name = str(out / f"{number:05d}.jpg")
        cv2.imwrite(name, jittered(image, shift, rng), [cv2.IMWRITE_JPEG_QUALITY, 95])


def jittered(image: Image, shift: float, rng: np.random.Generator) -> Image:
    """The picture moved by up to ``shift`` of its size, with other light and noise."""
    height, width = image.shape[:2]
    right, down = rng.uniform(-shift, shift, 2) * (width, height)
    matrix = np.array([[1, 0, right], [0, 1, down]], np.float32)
    moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    light = moved * rng.uniform(0.85, 1.15) + rng.normal(0, 3, moved.shape)
    return np.asarray(light.clip(0, 255), np.uint8)


def chosen_frames(drive: Path, way: str, seed: int) -> Path:
    """The folder of the frames that one way chooses, as many as are collected unless all."""
    if way == "all":
        return drive
    out = drive.with_name(f"{drive.name}-{way}".replace(" ", "-"))
    if (out / "done").exists():
        return out
    shutil.rmtree(out, ignore_errors=True)
    frames = sorted(drive.glob("*.jpg"))
    if way == "collect":
        chosen = collected(frames)
    else:
        count = len(list(chosen_frames(drive, "collect", seed).glob("*.jpg")))
        if way == "every nth":
            chosen = [frames[int(i)] for i in np.linspace(0, len(frames) - 1, count).round()]
        else:
            order = np.random.default_rng(1000 + seed).permutation(len(frames))[:count]
            chosen = [frames[int(i)] for i in sorted(order)]
    out.mkdir()
    for frame in chosen:
        (out / frame.name).symlink_to(frame.resolve())
    (out / "done").touch()
    return out


def collected(frames: Sequence[Path]) -> list[Path]:
    """The frames that a collector keeps with room for half of them."""
    room = sum(path.stat().st_size for path in frames) // 2
    with TemporaryDirectory() as scratch:
        store = FrameStore(Path(scratch) / "kept", room)
        with Collector(store) as collector:
            for number, path in enumerate(frames):
                collector.consider(Frame(read_image(path), path.stem, number * _PERIOD_NS))
        times_s = [frame.time_s for frame in store.frames.values()]
    return sorted(frames[round(1e9 * time_s / _PERIOD_NS)] for time_s in times_s)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean mIoU and deviation over the seeds, a line for each method and road."""
    lines = [f"| method | road | {' | '.join(WAYS)} |", "|---" * (len(WAYS) + 2) + "|"]
    for method, road in dict.fromkeys((row["method"], row["road"]) for row in rows):
        cells = []
        for way in WAYS:
            of = [r for r in rows if (r["method"], r["road"], r["way"]) == (method, road, way)]
            values = [r["miou"] for r in of]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            count = round(statistics.mean(r["frames"] for r in of))
            cells.append(f"{statistics.mean(values):.1f}{spread} ({count})")
        lines.append(f"| {method} | {road} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
