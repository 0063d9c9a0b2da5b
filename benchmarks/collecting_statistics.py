"""Frames of a drive that are worth keeping for batch norm's statistics, at a fixed share of them.

    python benchmarks/collecting_statistics.py --data DIR --camvid DIR --work DIR [--seeds 3]

The drives of benchmarks/collecting.py, with its model, work folder and measure, and without what is
random in `adapt`: the statistics of each choice of frames are mixed half and half into the
network's, which then labels the road's other frames. The choices take apart why a random sample did
better there than what is collected: the tunnel, the standstill, and how often each place was seen.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from collecting import SIZE, SPACES, collected, make_drive, source_model
from numpy.typing import NDArray
from roadshift.adapt.models.loading import load_network
from roadshift.adapt.models.torch_engine import TorchEngine
from roadshift.adapt.networks.mixed_statistics import (
    mix_statistics,
    running_statistics,
    target_statistics,
)
from roadshift.runtime.bench.evaluation import evaluate
from roadshift.runtime.bundle import open_bundle
from roadshift.runtime.collecting.appearance import appearance
from roadshift.runtime.frames.images import read_image
from roadshift.runtime.frames.preprocess import fit_frame
from roadshift.runtime.labels import label_space

SHARE, BATCH, ROAD = 0.5, 8, "dusk"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    road = ModelOnRoad(source_model(given.data, given.work), given.camvid / ROAD)
    found: dict[str, list[float]] = {}
    for seed in range(given.seeds):
        drive = given.work / f"statistics-{ROAD}-{seed}"
        if not drive.exists():
            make_drive(road.learn, drive, seed)
        frames = sorted(drive.glob("*.jpg"))
        pixels = [fit_frame(read_image(path), *SIZE) for path in frames]
        for name, places in choices(frames, seed).items():
            found.setdefault(name, []).append(road.miou([pixels[place] for place in places]))
            print(seed, name, len(places), f"{found[name][-1]:.1f}", flush=True)
    print("\n| frames | mIoU, each seed | mean |\n|---|---|---:|")
    for name, values in found.items():
        each = ", ".join(f"{value:.1f}" for value in values)
        print(f"| {name} | {each} | {statistics.mean(values):.1f} |")


class ModelOnRoad:
    """A model, and the frames of a road: those to learn from, and those that it is measured on."""

    def __init__(self, source: Path, folder: Path) -> None:
        bundle = open_bundle(source)
        self._network = load_network(bundle, torch.device("cpu")).eval()
        self._source = running_statistics(self._network)
        self._input, space = bundle.manifest.input, bundle.label_space
        device = torch.device("cpu")
        self._engine = TorchEngine(self._network, space, self._input, device=device, threads=1)
        self._space = label_space(SPACES[ROAD])
        images = sorted((folder / "images").iterdir())
        self.learn, held = images[: len(images) // 2], images[len(images) // 2 :]
        self._held = [(one, folder / "labels" / f"{one.stem}.png") for one in held]

    def miou(self, frames: Sequence[NDArray[np.uint8]]) -> float:
        """Mean IoU with the statistics of these frames, (h, w, 3) each, mixed in."""
        mean, std = (
            torch.tensor(one).view(1, 3, 1, 1) for one in (self._input.mean, self._input.std)
        )
        batches = (
            (torch.from_numpy(np.stack(frames[at : at + BATCH])).permute(0, 3, 1, 2) - mean) / std
            for at in range(0, len(frames), BATCH)
        )
        mix_statistics(self._source, target_statistics(self._network, batches), SHARE)
        try:
            return evaluate(self._engine, self._held, self._space, note=lambda _: None).miou()
        finally:
            mix_statistics(self._source, self._source, 1.0)


def choices(frames: Sequence[Path], seed: int) -> dict[str, list[int]]:
    """Places in a drive, by the name of the way to choose them."""
    looks = [appearance(read_image(path)) for path in frames]
    lit = [place for place, one in enumerate(looks) if not one.is_dark]
    dark = [place for place, one in enumerate(looks) if one.is_dark]
    kept = [frames.index(path) for path in collected(frames)]
    vectors = np.stack([looks[place].descriptor for place in kept])
    nearest = [int(np.linalg.norm(vectors - looks[at].descriptor, axis=1).argmin()) for at in lit]
    chance = np.random.default_rng(1000 + seed)
    some = sorted(map(int, chance.permutation(len(frames))[: len(kept)]))
    return {
        "all": list(range(len(frames))),
        "all but the tunnel": lit,
        "random": some,
        "random, without the tunnel": [place for place in some if place in set(lit)],
        "collect": kept,
        "collect, each as often as it was seen": sorted(kept[number] for number in nearest),
        "collect, and as much tunnel as there was": sorted(
            [*kept, *dark[: round(len(kept) * len(dark) / len(lit))]]
        ),
    }


if __name__ == "__main__":
    main()
