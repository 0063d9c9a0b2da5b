"""Pictures of maps: heat maps with their scale, masks, small multiples, and dots in a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ...runtime.frames.images import Image
from ...runtime.labels import LabelSpace
from ...runtime.pipeline.overlay import overlay, strip
from .frame_maps import Floats

HEIGHT, SMALL_HEIGHT = 256, 144  # pixels of a panel; of one of many
_GAP = 4  # pixels between rows
_COLUMNS = 4  # small multiples side by side
_WHITE = 255
_FONT = cv2.FONT_HERSHEY_SIMPLEX
Panel = tuple[str, Image]
Range = tuple[float, float]


def side_by_side(panels: Sequence[Panel], height: int = HEIGHT) -> Image:
    """Captioned panels side by side, RGB; small ones grow without blurring their pixels."""
    return strip([(ascii_of(caption), _grown(one, height)) for caption, one in panels], height)


def rows(pictures: Sequence[Image]) -> Image:
    """Pictures one below the other, RGB, white where one is narrower than others."""
    width = max(one.shape[1] for one in pictures)
    padded = [
        cv2.copyMakeBorder(
            one, 0, _GAP, 0, width - one.shape[1], cv2.BORDER_CONSTANT, value=(_WHITE,) * 3
        )
        for one in pictures
    ]
    return np.vstack(padded)[:-_GAP].astype(np.uint8, copy=False)


def heat_map(values: Floats, span: Range) -> Image:
    """Values in viridis, dark for ``span[0]`` and below, bright for ``span[1]`` and above.

    Args:
        values: (H, W), finite.

    Returns:
        RGB, (H, W, 3), uint8.
    """
    low, high = span
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    levels = np.round(255 * np.clip(share, 0, 1)).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1], np.uint8)


def scale(span: Range, height: int = HEIGHT) -> Panel:
    """The scale of a `heat_map` as a panel: from its lowest value, below, to its highest."""
    width, bar, rim = 64, 18, 10
    picture = np.full((height, width, 3), _WHITE, np.uint8)
    ramp = np.linspace(1, 0, height - 2 * rim, dtype=np.float32)[:, None]
    picture[rim : height - rim, :bar] = heat_map(np.repeat(ramp, bar, axis=1), (0.0, 1.0))
    for share in (1.0, 0.5, 0.0):
        text = f"{span[0] + share * (span[1] - span[0]):.2g}"
        y = round(rim + (1 - share) * (height - 2 * rim)) + 4
        _text(picture, text, (bar + 4, y))
    return "", picture


def heat_row(maps: Mapping[str, Floats], span: Range, height: int = HEIGHT) -> Image:
    """Heat maps side by side, by caption, and the scale that all of them have."""
    drawn = [(caption, heat_map(values, span)) for caption, values in maps.items()]
    return side_by_side([*drawn, scale(span, height)], height)


def small_multiples(maps: Mapping[str, Floats], span: Range) -> Image:
    """Heat maps in rows of `_COLUMNS`, by caption, and beside each row the scale of all."""
    captions = list(maps)
    chunks = [captions[i : i + _COLUMNS] for i in range(0, len(captions), _COLUMNS)]
    return rows([heat_row({c: maps[c] for c in chunk}, span, SMALL_HEIGHT) for chunk in chunks])


def class_mask(labels: Image, shown: NDArray[np.bool_], space: LabelSpace) -> Image:
    """The colour of each pixel's class where it is ``shown``, hatched white elsewhere.

    White and hatched, since classes may have any one colour, and many are dark.
    """
    down, across = np.indices(labels.shape)
    hatched = np.where((down + across) % 8 < 2, np.uint8(200), np.uint8(_WHITE))[..., None]
    picture = np.where(shown[..., None], space.colourise(labels), hatched)
    return picture.astype(np.uint8, copy=False)


def differences(frame: Image, before: Image, after: Image, space: LabelSpace) -> Image:
    """The frame in dark grey, with the colour of the class in ``after`` where it is another one."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
    dimmed = (grey * 0.4).astype(np.uint8)
    differs = (before != after)[..., None]
    return np.where(differs, space.colourise(after), dimmed).astype(np.uint8, copy=False)


def label_panels(frame: Image, labels: Mapping[str, Image], space: LabelSpace) -> Image:
    """Label maps over the frame, side by side; of two, also where the second differs."""
    drawn = [(name, overlay(frame, one, space, 0.75)) for name, one in labels.items()]
    if len(labels) == 2:
        before, after = labels.values()
        drawn.append(("where they differ", differences(frame, before, after, space)))
    return side_by_side(drawn)


def scatter(
    clouds: Mapping[str, tuple[Floats, NDArray[np.uint8]]], space: LabelSpace, side: int = 420
) -> Image:
    """Points in a plane in the colours of their classes, a panel for each cloud, with a legend.

    Args:
        clouds: positions (N, 2) and classes (N,), by caption.
    """
    drawn = []
    for caption, (positions, classes) in clouds.items():
        picture = np.full((side, side, 3), _WHITE, np.uint8)
        low, high = positions.min(axis=0), positions.max(axis=0)
        at = 10 + (side - 20) * (positions - low) / np.where(high > low, high - low, 1)
        for (x, y), label in zip(np.round(at).astype(int).tolist(), classes.tolist(), strict=True):
            cv2.circle(picture, (x, y), 4, (90, 90, 90), -1, cv2.LINE_AA)
            cv2.circle(picture, (x, y), 3, space.colours[label], -1, cv2.LINE_AA)
        drawn.append((caption, picture))
    found = sorted({int(c) for _, classes in clouds.values() for c in classes})
    return rows([side_by_side(drawn, side), _legend(found, space, side * len(drawn))])


def ascii_of(text: str) -> str:
    """Text in the letters that OpenCV's font has, "?" for each other one."""
    return text.encode("ascii", "replace").decode()


def _legend(classes: Sequence[int], space: LabelSpace, width: int) -> Image:
    """Swatches with the names of classes, in as many columns as fit."""
    cell, line = 140, 22
    columns = max(1, width // cell)
    picture = np.full((line * -(-len(classes) // columns) + 6, width, 3), _WHITE, np.uint8)
    for place, label in enumerate(classes):
        x, y = cell * (place % columns) + 4, line * (place // columns) + 6
        cv2.rectangle(picture, (x, y), (x + 14, y + 14), space.colours[label], -1)
        cv2.rectangle(picture, (x, y), (x + 14, y + 14), (90, 90, 90), 1)
        _text(picture, ascii_of(space.classes[label])[:15], (x + 20, y + 12))
    return picture


def _grown(picture: Image, height: int) -> Image:
    """A picture that is lower than ``height`` at that height, each pixel a block."""
    if picture.shape[0] >= height:
        return picture
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    grown = cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(grown, np.uint8)


def _text(picture: Image, text: str, at: tuple[int, int]) -> None:
    cv2.putText(picture, text, at, _FONT, 0.4, (40, 40, 40), 1, cv2.LINE_AA)
