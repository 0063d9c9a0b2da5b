"""Frames to judge an export on, others to calibrate on, and others again to choose on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..runtime.bundle import Bundle
from ..runtime.errors import ConfigError, FrameError, Sentence, arg, naming
from ..runtime.folders.label_pairs import labelled_pairs
from ..runtime.frames import open_frames
from ..runtime.frames.images import read_frame_image
from ..runtime.frames.preprocess import fit_frame
from ..runtime.labels.spaces import LabelMap
from ..runtime.video.damage_watch import DamageWatch
from ..scenes import render_scene

PARITY_FRAMES = 16
CALIBRATION_FRAMES = 128
CHOICE_FRAMES = 8  # at most, of those, and at most a quarter of them
_SCENES = range(100, 132)  # to calibrate on where there are no frames

Note = Callable[[str], None]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class EvaluationData:
    """Frames and labels that an export is judged on.

    Attributes:
        frames: at the bundle's input size, uint8 (H, W, 3) RGB; at least one.
        compared_on: what they are, for the manifest.
        pairs: image and label files to measure mIoU on; none where there are no labels.
        label_map: from the bundle's classes to those of the labels; None: these are its own.
    """

    frames: Sequence[Image]
    compared_on: str
    pairs: Sequence[tuple[Path, Path]] = ()
    label_map: LabelMap | None = None


@dataclass(frozen=True)
class Calibration:
    """Frames that a quantised graph is made from; none of them is judged on.

    Attributes:
        frames: ranges are taken from; at the bundle's input size, uint8 (H, W, 3) RGB.
        choice: others, on which graphs are compared that were made with those ranges.
        source: what they are, for the manifest.
    """

    frames: Sequence[Image]
    choice: Sequence[Image]
    source: str

    @classmethod
    def of(cls, frames: Sequence[Image], source: str) -> Calibration:
        """``frames`` with some of them, evenly spaced, held out to choose on.

        Raises:
            ConfigError: fewer than two frames.
        """
        if len(frames) < 2:
            raise ConfigError(
                f"{arg('calibration')}: {len(frames)} of the {source} can be used, and two "
                "are needed, "
                "one for ranges and one to choose a method on; give more."
            )
        held = evenly(len(frames), max(1, min(CHOICE_FRAMES, len(frames) // 4)))
        rest = [frame for i, frame in enumerate(frames) if i not in set(held)]
        return cls(rest, [frames[i] for i in held], source)


def gather_evaluation(
    bundle: Bundle,
    sources: Sequence[str],
    labels: Path | None,
    note: Note,
    label_map: LabelMap | None = None,
) -> EvaluationData:
    """The first 16 frames of ``sources``, or built-in scenes; with ``labels``, the pairs too.

    Raises:
        ConfigError: labels without the one folder of images that they belong to, or a label map
            without labels.
        FrameError, LabelError: as `open_frames` and `labelled_pairs`.
    """
    width, height = bundle.manifest.input.width, bundle.manifest.input.height
    if labels is not None and len(sources) != 1:
        raise ConfigError(
            f"{arg('labels')} needs one {arg('frames')}, the folder of the images they belong to."
        )
    if label_map is not None and labels is None:
        raise ConfigError(
            f"{arg('label_space')} and {arg('label_map')} are of labels; give "
            f"{arg('labels')} as well."
        )
    pairs = labelled_pairs(Path(sources[0]), labels, note=_said_below) if labels is not None else []
    if not sources:
        scenes = [render_scene(seed, "daylight", width, height).image for seed in range(4)]
        return EvaluationData(scenes, "built-in scenes")
    found = list(_fitted(sources, width, height, note, PARITY_FRAMES))
    return EvaluationData(found, "frames of " + ", ".join(sources), pairs, label_map)


def _fitted(
    sources: Sequence[str], width: int, height: int, note: Note, most: int | None = None
) -> Iterator[Image]:
    """The first ``most`` frames of some sources, or all; damage is said behind them."""
    source = open_frames(list(sources), on_skip=note)
    with DamageWatch(note) as watch:
        source.watch = watch
        for frame in islice(source, most):
            yield fit_frame(frame.image, width, height)
        watch.finish()


def _said_below(_: str) -> None:
    """Drop what listing the pairs says: opening the same folder as frames says it."""


def gather_calibration(
    bundle: Bundle, sources: Sequence[str], evaluation: EvaluationData, note: Note
) -> Calibration:
    """Up to 128 frames spread over ``sources``, without those of ``evaluation``.

    Built-in scenes where there are no sources, and a note that says what that is worth.

    Raises:
        ConfigError: all frames but one are those that the export is judged on.
    """
    width, height = bundle.manifest.input.width, bundle.manifest.input.height
    if not sources:
        note(
            Sentence(
                f"No {arg('calibration')} frames: calibrating on built-in scenes. Ranges of the "
                f"roads that the vehicle drives differ; give {arg('calibration')} FRAMES for a "
                "model that is meant to drive."
            )
        )
        scenes = (render_scene(seed, "daylight", width, height).image for seed in _SCENES)
        return Calibration.of(list(scenes), "built-in scenes")
    judged = {_digest(frame) for frame in evaluation.frames} | {
        _digest(fit_frame(read_frame_image(image), width, height)) for image, _ in evaluation.pairs
    }
    fitted = _fitted(sources, width, height, note)
    with naming(calibration=FrameError):
        unseen = (frame for frame in fitted if _digest(frame) not in judged)
        kept = spread(unseen, CALIBRATION_FRAMES)
    if not kept:
        raise ConfigError(
            f"{arg('calibration')} {', '.join(sources)}: holds only frames that the export "
            "is judged on; "
            f"give others, or another {arg('frames')}."
        )
    return Calibration.of(kept, "frames of " + ", ".join(sources))


def spread(frames: Iterable[Image], most: int) -> list[Image]:
    """Between ``most / 2`` and ``most`` frames, evenly spread over all; all where they are few."""
    kept: list[Image] = []
    step = 1
    for i, frame in enumerate(frames):
        if i % step:
            continue
        if len(kept) == most:
            kept, step = kept[::2], 2 * step
            if i % step:
                continue
        kept.append(frame)
    return kept


def evenly(length: int, count: int) -> list[int]:
    """``count`` places in a sequence of ``length``, evenly spaced; all where it has fewer."""
    count = min(count, length)
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def _digest(frame: Image) -> bytes:
    return hashlib.sha256(frame.tobytes()).digest()
