"""Collecting under load: time a frame, a million frames, and kills.

    python benchmarks/collecting_load.py cost  [--kept 40000]
    python benchmarks/collecting_load.py soak  [--frames 1000000] [--budget 3000000]
    python benchmarks/collecting_load.py kills [--kills 200]

``cost``: CPU time of a frame of 1280x720 that is not written, with so many kept ones. ``soak``:
the looks of as many frames, and a small picture for each; prints the most bytes that the folder
ever had on the disk and the memory of the process. ``kills``: a collector that is killed at random
moments after its first frame, started again each time; after each kill there must be frames, and
every file must decode and agree with what is read of the folder. The work folder is one of the
system's temporary ones.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from roadshift.runtime.collecting.appearance import LENGTH, Appearance, appearance
from roadshift.runtime.collecting.collector import Collector
from roadshift.runtime.collecting.frame_files import KeptFrame
from roadshift.runtime.collecting.store import INDEX, FrameStore, read_index, read_store
from roadshift.runtime.frames import Frame
from roadshift.runtime.frames.images import read_image

Image = NDArray[np.uint8]
KEEPS = "keeps frames"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=("cost", "soak", "kills", "drive"))
    parser.add_argument("--kept", type=int, default=40_000)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--budget", type=int, default=3_000_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--out", type=Path, help="of `drive`, which `kills` starts")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        if given.part == "cost":
            cost(Path(folder), given.kept)
        elif given.part == "soak":
            soak(Path(folder) / "collected", given.frames, given.budget)
        elif given.part == "kills":
            kills(Path(folder) / "collected", given.kills, given.budget)
        else:
            drive(given.out, given.budget)


def road(seed: int, height: int, width: int) -> Iterator[Frame]:
    """Frames without end: slowly changing mixtures of a few smooth pictures, with standstills."""
    rng = np.random.default_rng(seed)
    bases = rng.uniform(0, 255, (12, height, width, 3)).astype(np.float32)
    for _ in range(max(2, width // 12)):
        bases = (bases + np.roll(bases, 1, 1) + np.roll(bases, 1, 2)) / 3
    bases = (bases - bases.mean()) / bases.std()
    mixture = rng.normal(0, 1, len(bases)).astype(np.float32)
    number = 0
    while True:
        if rng.random() < 0.7 or not number:
            mixture = 0.95 * mixture + 0.3 * rng.normal(0, 1, len(bases)).astype(np.float32)
            image = 110 + 14 * np.tensordot(mixture, bases, 1)
        yield Frame(image.clip(0, 255).astype(np.uint8), "", number * 100_000_000)
        number += 1


def on_disk(folder: Path) -> int:
    """Bytes that the file system has given the files of a folder."""
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(folder))


def memory_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cost(folder: Path, kept: int) -> None:
    """Print the CPU time of a frame of 1280x720 that is left out, by what it is left out for."""
    rng = np.random.default_rng(0)
    store = FrameStore(folder / "collected", 10**12)
    vectors = rng.normal(0, 0.15, (kept, LENGTH)).astype(np.float32)
    frames = road(1, 720, 1280)
    images = [next(frames) for _ in range(20)]
    for number, vector in enumerate(vectors):
        # The descriptors alone: files are not read for a decision.
        store.reservoir.add(str(number), 300_000, vector, number, 1.0, np.full(number, 9, "f4"))
    store.budget = store.used
    collector = Collector(store)
    labels = np.zeros((720, 1280), np.uint8)
    labels[300:] = 1
    for image in images:
        collector.consider(image, labels)
    outcomes: dict[str, list[float]] = {}
    for image in images * 20:
        start = time.thread_time()
        outcome = collector.consider(image, labels)
        outcomes.setdefault(outcome, []).append(1e3 * (time.thread_time() - start))
    for outcome, values in outcomes.items():
        p50, p99 = np.percentile(values, [50, 99])
        print(f"{outcome}: {len(values)} frames, p50 {p50:.2f} ms, p99 {p99:.2f} ms of CPU time")


def soak(folder: Path, frames: int, budget: int) -> None:
    """Offer the looks of so many frames; stop where the folder is ever above its budget."""
    most, began = 0, time.monotonic()
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (16, 16, 3), np.uint8)
    vector = rng.normal(0, 0.15, LENGTH).astype(np.float32)
    with Collector(FrameStore(folder, budget)) as collector:
        for number in range(1, frames + 1):
            if number % 3:  # else the car stands still
                vector = (0.97 * vector + rng.normal(0, 0.04, LENGTH)).astype(np.float32)
            looks = Appearance(vector, 100.0, is_dark=False, is_flat=False, sharpness=0.0)
            outcome = collector.choose(Frame(image, "", number * 100_000_000), looks)
            if outcome == "kept" or number % 1000 == 0:
                used = on_disk(folder)
                most = max(most, used)
                if used > budget:
                    sys.exit(f"frame {number}: {used} bytes are above the budget of {budget}")
            if number % (frames // 10) == 0:
                rate = number / (time.monotonic() - began)
                print(
                    f"{number} frames, {rate:.0f} a second, {collector.counts['kept']} written, "
                    f"at most {most} of {budget} bytes, {memory_mib():.0f} MiB",
                    flush=True,
                )


def drive(out: Path, budget: int) -> None:
    """Collect until killed, writing the index all the time; say when the first frame is kept."""
    store = FrameStore(out, budget)
    seed = store.next_drive
    with Collector(store) as collector:
        for frame in road(seed, 144, 256):
            if collector.consider(frame) != "kept":
                continue
            if collector.counts["kept"] == 1:
                print(KEEPS, flush=True)
            if collector.counts["kept"] % 5 == 0:
                store.write_index()


def kills(folder: Path, count: int, budget: int) -> None:
    """Kill a collector so many times; exit where the folder is not whole or above its budget."""
    words = [sys.executable, __file__, "drive", "--out", str(folder), "--budget", str(budget)]
    chance = random.Random(3)
    for number in range(1, count + 1):
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            said = process.stdout.readline().decode().strip()
            time.sleep(chance.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
        if said != KEEPS:
            sys.exit(f"drive {number} ended by itself before it kept a frame")
        kept = check(folder, budget)
        if number % 10 == 0 or number == count:
            print(f"{number} kills, {kept} frames, all whole", flush=True)


def check(folder: Path, budget: int) -> int:
    """Frames there; exit unless there are some, every file decodes, and the index agrees."""
    frames, _, cut = read_store(folder)
    if not frames:
        sys.exit("no frame was kept, so nothing is checked")
    indexed, counts = read_index(folder)
    by_name: dict[str, KeptFrame] = {frame.name: frame for frame in frames}
    for frame in frames:
        image = read_image(folder / frame.name)
        looks = appearance(image)
        if np.linalg.norm(looks.descriptor - frame.descriptor) > 0.05:
            sys.exit(f"{frame.name} is another frame than is said")
        known = indexed.get(frame.name, frame)
        if known.record() != by_name[frame.name].record():
            sys.exit(f"{frame.name}: the index says something else")
    if cut or on_disk(folder) > budget:
        sys.exit(f"{len(cut)} files are cut, {on_disk(folder)} bytes of {budget}")
    if (folder / INDEX).exists() and not counts:
        sys.exit("the index is cut")
    return len(frames)


if __name__ == "__main__":
    main()
