"""Pictures of a page: the same frames through each model, embedded."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..engines import Engine, open_engine
from ..frames import FrameSource
from ..frames.images import read_image
from ..pipeline.overlay import overlay
from ..spacing import evenly_spaced
from .html import Picture, Section

FRAMES = 3  # evenly spaced
WIDTH = 480  # pixels of each picture
_QUALITY = 85  # of JPEG


def picture_sections(
    bundles: Sequence[Bundle],
    frames: FrameSource,
    *,
    count: int = FRAMES,
    open_with: Callable[[Bundle], Engine] = open_engine,
) -> list[Section]:
    """Frames, evenly spaced, and the labels of each model over them, side by side.

    Raises:
        EngineError: a model cannot run here.
        FrameError: there is no frame.
    """
    images = _evenly(frames, count)
    columns = []
    for bundle in bundles:
        with open_with(bundle) as engine:
            columns.append([engine.segment(image) for _, image in images])
    names = [bundle.path.name for bundle in bundles]
    pictures = []
    for number, (name, image) in enumerate(images):
        tiles = [_small(image)]
        for bundle, labels in zip(bundles, columns, strict=True):
            tiles.append(_small(overlay(image, labels[number], bundle.label_space)))
        what = ", ".join(["the frame", *names])
        pictures.append(
            Picture(
                _embedded(np.concatenate(tiles, axis=1)),
                name,
                f"From left to right: {what}",
                f"The frame {name}, then the classes that {' and '.join(names)} give its pixels",
            )
        )
    return [Section("The same frames", pictures=pictures, name="pictures")]


def embedded_picture(path: Path, title: str, caption: str, alt: str) -> Picture:
    """The picture of a file, at most `WIDTH` pixels wide, embedded.

    Raises:
        FrameError: it cannot be read.
    """
    image = read_image(path)
    small = image if image.shape[1] <= WIDTH else _small(image)
    return Picture(_embedded(small), title, caption, alt)


def _evenly(frames: FrameSource, count: int) -> list[tuple[str, NDArray[np.uint8]]]:
    """Names and pixels of ``count`` frames from the first to the last, as few as there are."""
    kept: list[tuple[str, NDArray[np.uint8]]] = []
    total = frames.length
    wanted = None
    if total is not None:
        wanted = set(evenly_spaced(total, count))
    for number, frame in enumerate(frames):
        if wanted is None or number in wanted:
            kept.append((frame.name, frame.image))
        if len(kept) == count:
            break
    return kept


def _small(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height = max(1, round(image.shape[0] * WIDTH / image.shape[1]))
    return np.asarray(cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)


def _embedded(image: NDArray[np.uint8]) -> str:
    """A data URI of an RGB picture."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise ValueError(f"OpenCV cannot write a JPEG of {image.shape}")
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()
