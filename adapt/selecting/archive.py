"""A frame with its pre-labels, and the base of the archives that tools for labelling read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.frames.images import Image, write_image
from ...runtime.labels import LabelSpace


@dataclass(frozen=True)
class PreLabelled:
    """One frame and the classes that the model gives its pixels.

    Attributes:
        name: of its files, without a suffix.
        image: (H, W, 3) uint8 RGB.
        labels: class indices, (H, W) uint8; the ignore index where nothing is said.
    """

    name: str
    image: Image
    labels: NDArray[np.uint8]


class Archive(ABC):
    """Files of one tool's layout in a folder; frames are added one by one.

    Args:
        folder: exists and is empty.
        space: of the labels; its classes and colours are the tool's.
    """

    def __init__(self, folder: Path, space: LabelSpace) -> None:
        self.folder, self.space = folder, space

    @abstractmethod
    def add(self, frame: PreLabelled) -> None:
        """Write a frame and its pre-labels.

        Raises:
            OutputError: the folder cannot be written.
        """

    def finish(self) -> None:  # noqa: B027 - a layout may have no file for all frames
        """Write what concerns all frames."""

    def _write_image(self, frame: PreLabelled, folder: str = "images") -> str:
        """The path of a frame's picture, a PNG, relative to the archive."""
        (self.folder / folder).mkdir(parents=True, exist_ok=True)
        name = f"{frame.name}.png"
        write_image(self.folder / folder / name, frame.image)
        return f"{folder}/{name}" if folder else name


def class_masks(labels: NDArray[np.uint8], space: LabelSpace) -> Iterator[tuple[int, str, Mask]]:
    """Index, name and mask, (H, W), of each class that a label map holds."""
    for index, name in enumerate(space.classes):
        mask = labels == index
        if mask.any():
            yield index, name, mask


Mask = NDArray[np.bool_]


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """Left, top, width and height of the pixels of a mask that has some."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def hexadecimal(colour: tuple[int, int, int]) -> str:
    """A colour as pages write it: "#804080"."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
