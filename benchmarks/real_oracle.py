"""Headroom on real roads: a published checkpoint fine-tuned with the labels of every other frame.

    python benchmarks/real_oracle.py --data DIR --camvid DIR [--work DIR]
                                     [--networks espnetv2-2.0] [--roads dusk,kitti]

Measured on the frames between those, as the source model and its mixed statistics are, whose
bundles `real.py --ways source,mixed` left in the same work folder. No adaptation without labels is
expected to get there: neighbours of the measured frames are labelled. A step is one of Adam on the
cross-entropy in the road's own classes, whose probability is the sum over the model's classes that
the label map leads there; batch norm stands still at the mixed statistics. Writes a cell a pair
into the work folder; `real.py` puts them on its page. Two hours on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from real import NETWORKS, ROADS
from roadshift.adapt.models.loading import load_network
from roadshift.adapt.models.segmenter import Segmenter
from roadshift.runtime.bench.evaluation import confusion_through
from roadshift.runtime.bundle import Bundle, open_bundle
from roadshift.runtime.folders.label_pairs import labelled_pairs
from roadshift.runtime.frames.images import read_frame_image
from roadshift.runtime.frames.preprocess import fit_frame
from roadshift.runtime.labels import label_space, read_labels
from roadshift.runtime.labels.spaces import LabelMap
from torch import Tensor

STEPS, BATCH, RATE = 120, 4, 3e-4
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # image (H, W, 3), label map (H, W)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("real-work"))
    parser.add_argument("--networks", default="espnetv2-2.0,espnetv2-0.5")
    parser.add_argument("--roads", default=",".join(ROADS))
    arguments = parser.parse_args()
    for name in arguments.networks.split(","):
        for road_name in arguments.roads.split(","):
            kept: Path = arguments.work / f"{name}.{road_name}.oracle.json"
            mixed: Path = arguments.work / f"{name}.{road_name}.mixed"
            if name not in NETWORKS or kept.exists() or not mixed.exists():
                continue
            road = ROADS[road_name]
            folder = (arguments.camvid if road.camvid else arguments.data) / road.folder
            source, bundle = open_bundle(arguments.work / name), open_bundle(mixed)
            cell = {"network": name, "road": road_name, "way": "oracle"}
            cell |= measure(source, bundle, folder, road.space)
            kept.write_text(json.dumps(cell) + "\n")
            print(cell, flush=True)


def measure(source: Bundle, mixed: Bundle, folder: Path, space: str) -> dict[str, Any]:
    """mIoU on every other frame, percent: as it came, statistics mixed, and after learning."""
    label_map = source.label_space.map_to(label_space(space))
    paths = labelled_pairs(folder / "images", folder / "labels", note=print)
    pairs = [read(image, labels, label_map) for image, labels in paths]
    learnt, kept = pairs[::2], pairs[1::2]
    model = segmenter(mixed)
    found = {
        "source": miou(segmenter(source), kept, label_map),
        "mixed": miou(model, kept, label_map),
    }
    fine_tune(model, learnt, label_map)
    return {**found, "miou": miou(model, kept, label_map), "frames": len(kept)}


def read(image: Path, labels: Path, label_map: LabelMap) -> Pair:
    picture = read_frame_image(image)
    return picture, read_labels(labels, label_map.target, picture.shape[1::-1])


def segmenter(bundle: Bundle) -> Segmenter:
    network = load_network(bundle, torch.device("cpu"))
    return Segmenter(network.eval(), bundle.manifest.input).eval()


def fitted(model: Segmenter, image: NDArray[np.uint8]) -> Tensor:
    """The image at the input size, uint8 (1, h, w, 3)."""
    height, width = model.size
    return torch.from_numpy(fit_frame(image, width, height))[None]


@torch.no_grad()
def miou(model: Segmenter, pairs: list[Pair], label_map: LabelMap) -> float:
    """Mean IoU at the labels' size, percent."""
    confusion = confusion_through(label_map)
    for image, labels in pairs:
        prediction = model(fitted(model, image))[0].numpy()
        full = cv2.resize(prediction, labels.shape[::-1], interpolation=cv2.INTER_NEAREST)
        confusion.update(label_map.apply(full), labels)
    return round(confusion.miou(), 2)


def fine_tune(
    model: Segmenter,
    pairs: list[Pair],
    label_map: LabelMap,
    *,
    steps: int = STEPS,
    rate: float = RATE,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> None:
    """Learn from labelled frames, in place."""
    groups = group_matrix(label_map)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    random = np.random.default_rng(seed)
    images = torch.cat([fitted(model, image) for image, _ in pairs])
    shape = model.size[::-1]
    resized = [cv2.resize(y, shape, interpolation=cv2.INTER_NEAREST) for _, y in pairs]
    truth = torch.from_numpy(np.stack(resized)).long()
    for step in range(steps):
        rows = torch.from_numpy(random.integers(len(pairs), size=min(BATCH, len(pairs))))
        x, y = images[rows], truth[rows]
        if random.random() < 0.5:
            x, y = x.flip(2), y.flip(2)
        p = (groups @ model.scores(x)[0].softmax(1).flatten(2)).unflatten(2, model.size)
        y = y.masked_fill(y >= len(groups), -100)
        loss = torch.nn.functional.nll_loss(p.clamp_min(1e-6).log(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            say(f"step {step}/{steps}: loss {float(loss.detach()):.3f}")


def group_matrix(label_map: LabelMap) -> Tensor:
    """1 where a class of the road (rows) is reached from one of the model's (columns), else 0."""
    matrix = torch.zeros(label_map.target.num_classes, len(label_map.indices))
    for column, row in enumerate(label_map.indices):
        if row is not None:
            matrix[row, column] = 1
    return matrix


if __name__ == "__main__":
    main()
