"""Pictures for people: label maps laid over frames, and panels side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ShapeError
from ..labels import LabelSpace

_GAP = 4  # pixels between panels and between rows
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def overlay(
    image: NDArray[np.uint8], label_map: NDArray[np.uint8], space: LabelSpace, opacity: float = 0.5
) -> NDArray[np.uint8]:
    """The frame tinted with the colours of its classes.

    Args:
        image: RGB, (H, W, 3), uint8.
        label_map: class indices, (H, W), uint8; what is no class of ``space`` is left untinted.
        space: gives the colours.
        opacity: 0 shows the frame alone, 1 the colours alone.

    Returns:
        RGB, (H, W, 3), uint8, a new array.

    Raises:
        ShapeError: the two disagree in size, or ``opacity`` is outside [0, 1].
    """
    _check_rgb("overlay", image)
    if label_map.shape != image.shape[:2]:
        raise ShapeError(
            f"overlay: labels {label_map.shape} for a frame {image.shape[:2]}; restore the labels "
            "to the size of the frame first."
        )
    if not 0 <= opacity <= 1:
        raise ShapeError(f"overlay: opacity must be from 0 to 1, got {opacity}.")
    mixed = cv2.addWeighted(image, 1 - opacity, space.colourise(label_map), opacity, 0.0)
    tinted = np.asarray(mixed, np.uint8)
    other = label_map >= space.num_classes
    if other.any():
        tinted[other] = image[other]
    return tinted


def strip(panels: Sequence[tuple[str, NDArray[np.uint8]]], height: int = 320) -> NDArray[np.uint8]:
    """Captioned panels side by side.

    Args:
        panels: caption (ASCII, what OpenCV's font has) and RGB picture, (H, W, 3) uint8, each.
        height: of the pictures in pixels; their aspect ratios stay. Captions come on top.

    Returns:
        RGB, (height + caption, W, 3), uint8.

    Raises:
        ShapeError: no panels, or one is no RGB picture.
    """
    if not panels:
        raise ShapeError("strip: needs at least one panel.")
    columns: list[NDArray[np.uint8]] = []
    for caption, image in panels:
        _check_rgb("strip", image)
        width = max(1, round(image.shape[1] * height / image.shape[0]))
        shrinks = height < image.shape[0]
        picture = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
        if columns:
            columns.append(np.full((columns[0].shape[0], _GAP, 3), 255, np.uint8))
        columns.append(np.vstack([_caption(caption, width, max(16, height // 10)), picture]))
    return np.hstack(columns)


def qualitative(
    frames: Sequence[tuple[NDArray[np.uint8], Mapping[str, NDArray[np.uint8]]]],
    space: LabelSpace,
    *,
    height: int = 320,
    columns: int = 6,
) -> NDArray[np.uint8]:
    """Frames one below the other, each beside its label maps: the figures of papers.

    Args:
        frames: RGB (H, W, 3) and label maps (H, W) by caption, such as "ground truth".
        space: gives the colours.
        height: of each picture in pixels.
        columns: panels side by side at most; those of a frame that has more stand in several rows.

    Returns:
        RGB, (H, W, 3), uint8; white where a row is shorter than others.

    Raises:
        ShapeError: no frames, or see `overlay` and `strip`.
    """
    if not frames:
        raise ShapeError("qualitative: needs at least one frame.")
    rows = []
    for image, label_maps in frames:
        tinted = {name: overlay(image, labels, space, 0.75) for name, labels in label_maps.items()}
        panels = [("frame", image), *tinted.items()]
        lines = -(-len(panels) // columns)
        each = -(-len(panels) // lines)  # lines of equal length, as far as possible
        rows += [strip(panels[i : i + each], height) for i in range(0, len(panels), each)]
    width = max(row.shape[1] for row in rows)
    padded = [
        cv2.copyMakeBorder(
            row, 0, _GAP, 0, width - row.shape[1], cv2.BORDER_CONSTANT, value=(255, 255, 255)
        )
        for row in rows
    ]
    return np.vstack(padded)[:-_GAP].astype(np.uint8, copy=False)


def _caption(text: str, width: int, height: int) -> NDArray[np.uint8]:
    """White text in the middle of a dark bar, (height, width, 3), shrunk until it fits."""
    bar = np.full((height, width, 3), 32, np.uint8)
    (text_width, text_height), _ = cv2.getTextSize(text, _FONT, 1.0, 1)
    scale = min(0.5 * height / max(text_height, 1), 0.94 * width / max(text_width, 1))
    left = round((width - scale * text_width) / 2)
    baseline = round((height + scale * text_height) / 2)
    cv2.putText(bar, text, (left, baseline), _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return bar


def _check_rgb(what: str, image: NDArray[Any]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ShapeError(
            f"{what}: a picture is RGB, (H, W, 3) of uint8, got {image.shape} of {image.dtype}."
        )
