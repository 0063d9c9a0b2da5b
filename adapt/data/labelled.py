"""Frames with their label maps, to train a source model on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...runtime.frames.images import read_frame_image
from ...runtime.frames.preprocess import fit_frame, restore_labels
from ...runtime.labels import LabelSpace, read_labels
from .dataset import CACHE_LIMIT_BYTES
from .frame_set import FrameSet, Image


def labelled_frames(
    pairs: Sequence[tuple[Path, Path]], space: LabelSpace, width: int, height: int
) -> FrameSet:
    """Image and label files, fitted to ``width`` x ``height`` (labels by nearest neighbour).

    Kept in memory once decoded, up to 8 GiB.

    Raises:
        FrameError, LabelError: a file is damaged, or a label map does not fit its image.
    """
    size = width * height * 4
    room = CACHE_LIMIT_BYTES // size
    kept: dict[int, tuple[Image, Image]] = {}

    def load(i: int) -> tuple[Image, Image]:
        if i in kept:
            return kept[i]
        image = read_frame_image(pairs[i][0])
        labels = read_labels(pairs[i][1], space, size=(image.shape[1], image.shape[0]))
        loaded = fit_frame(image, width, height), restore_labels(labels, width, height)
        if len(kept) < room:
            kept[i] = loaded
        return loaded

    return FrameSet(
        [image.stem for image, _ in pairs],
        width,
        height,
        lambda i: load(i)[0],
        lambda i: load(i)[1],
    )
