"""Batches a second: frames of one size, crops with photometric noise, by number of threads.

    python benchmarks/loading.py [--sizes 1024x512 2048x1024] [--crop 512x256] [--batch 6]
                                 [--threads 1 2] [--seconds 4] [--out benchmarks/results/loading]

The frames are built-in scenes as PNG files. "decoding" is what a run pays once for each frame,
before its first step; a batch then crops what was decoded. On CUDA the trainer makes batches on up
to eight threads while the GPU takes steps. Writes OUT.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import date
from pathlib import Path

import cv2
from machine_line import machine_line
from roadshift.adapt.data.dataset import CropSampler, target_frames
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.data.prefetching import Prefetcher
from roadshift.adapt.run.config import AugmentConfig, TrainingConfig
from roadshift.commands.parse import parse_size
from roadshift.runtime.frames.images import read_image
from roadshift.runtime.probes.cores import available_cores
from roadshift.scenes import render_dataset

FRAMES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", default=["1024x512", "2048x1024"])
    parser.add_argument("--crop", default="512x256")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, available_cores()])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/loading"))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)  # so that a thread is a thread
    crop = parse_size("--crop", arguments.crop)
    counts = dict.fromkeys(arguments.threads)
    lines = [
        f"Batches of {arguments.batch} crops of {arguments.crop} (zoomed 0.5 to 1.5, mirrored, "
        f"jitter), {machine_line()}, {date.today().isoformat()}.",
        "",
        f"| frames | decoding | {' | '.join(f'batches a second, {n} threads' for n in counts)} |",
        "|---" * (2 + len(counts)) + "|",
    ]
    for size in arguments.sizes:
        width, height = parse_size("--sizes", size)
        with tempfile.TemporaryDirectory() as folder:
            render_dataset(Path(folder) / "s", "dusk", FRAMES, seed=1, width=width, height=height)
            decoding = decode_seconds(Path(folder) / "s/images")
            frames = target_frames([f"{folder}/s/images"], width, height, Path(folder))
            rates = [
                batches_a_second(frames, crop, arguments.batch, n, arguments.seconds)
                for n in counts
            ]
        cells = [f"{rate:.1f}" for rate in rates]
        lines.append(f"| {size} | {1e3 * decoding:.0f} ms | {' | '.join(cells)} |")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def decode_seconds(folder: Path) -> float:
    """Seconds to decode one image, on one thread."""
    paths = sorted(folder.iterdir())
    start = time.perf_counter()
    for path in paths:
        read_image(path)
    return (time.perf_counter() - start) / len(paths)


def batches_a_second(
    frames: FrameSet, crop: tuple[int, int], batch: int, threads: int, seconds: float
) -> float:
    training = TrainingConfig(batch_size=batch, crop_size=crop, scale=(0.5, 1.5))
    sampler = CropSampler(frames, training, AugmentConfig(policy="jitter"), 0)
    batches = Prefetcher(sampler.batch, 0, 1 << 30, depth=threads + 2, workers=threads)
    drawn, items = 0, iter(batches)
    for _ in range(threads + 2):
        next(items)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        next(items)
        drawn += 1
    rate = drawn / (time.perf_counter() - start)
    batches.close()
    return rate


if __name__ == "__main__":
    main()
