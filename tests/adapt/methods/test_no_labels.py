"""The guard that `label_guard` gives to runs: no way to a label is left open."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from label_guard import LabelReadError
from roadshift.adapt.data import labelled
from roadshift.adapt.data.dataset import Batch
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.runtime import labels
from roadshift.runtime.folders import label_pairs
from roadshift.runtime.folders.folder_contents import folder_contents
from roadshift.runtime.frames import images

WAYS: dict[str, Callable[[Path], Any]] = {
    "read_labels": lambda label: labels.read_labels(label, labels.label_space("camvid11")),
    "labelled.read_labels": lambda label: labelled.read_labels(
        label, labels.label_space("camvid11")
    ),
    "find_labels": lambda label: label_pairs.find_labels(*image_and_folders(label)),
    "labelled_pairs": lambda label: label_pairs.labelled_pairs(*image_and_folders(label)[1:]),
    "a set with labels": lambda _: FrameSet(["a"], 48, 32, lambda _: truth(), lambda _: truth()),
    "read_image": images.read_image,
    "read_frame_image": images.read_frame_image,
    "open": lambda label: open(label, "rb"),  # noqa: SIM115 - it raises
    "Path.open": lambda label: label.open("rb"),
    "Path.read_bytes": lambda label: label.read_bytes(),
    "os.open": lambda label: os.open(label, os.O_RDONLY),
    "cv2.imread": lambda label: cv2.imread(str(label)),
    "cv2.VideoCapture": lambda label: cv2.VideoCapture(str(label)),
    "numpy.fromfile": lambda label: np.fromfile(label, np.uint8),
}


def image_and_folders(label: Path) -> tuple[Path, Path, Path]:
    root = label.parents[1]
    return root / "images" / label.name, root / "images", root / "labels"


def truth() -> labelled.Image:
    return np.zeros((32, 48), np.uint8)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_a_label_is_barred(way: str, target: Path, no_labels: list[Batch]) -> None:
    del no_labels  # it bars them
    with pytest.raises(LabelReadError):
        WAYS[way](target / "labels" / "frame_0.png")


def test_images_beside_the_labels_can_be_read(target: Path, no_labels: list[Batch]) -> None:
    del no_labels
    paths = folder_contents(target, videos=False).files
    assert [path.parent.name for path in paths] == ["images"] * 6
    assert images.read_image(paths[0]).shape == (32, 48, 3)
