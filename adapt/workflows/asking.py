"""A black box's answers to frames, written down: to measure against, or to learn from later."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...runtime.arguments import ProgressUpdate
from ...runtime.atomic import output_errors, write_whole
from ...runtime.errors import ConfigError, OutputError, arg
from ...runtime.frames import Frame, open_frames
from ...runtime.frames.images import write_image
from ...runtime.frames.preprocess import restore_labels
from ...runtime.labels import LabelSpace
from ..black_boxes import Answer, BlackBox, BoxWiring, checked_answer, open_black_box
from ..black_boxes.base import NO_CLASS
from ..run.events import QUIET, Events


@dataclass(frozen=True)
class AnswersWritten:
    """The outcome of asking.

    Attributes:
        asked: frames that the black box was asked about; ``kept`` were answered before.
        seconds: that it took.
        shares: of all pixels of the frames asked about, by class; the rest is of none.
    """

    folder: Path
    asked: int
    kept: int
    seconds: float
    shares: dict[str, float]

    def record(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {**asdict(self), "folder": str(self.folder)}


def ask_black_box(
    source: str | Path | Callable[..., Any],
    frames: Sequence[str | Path],
    out: Path,
    *,
    space: LabelSpace | None = None,
    wiring: BoxWiring | None = None,
    soft: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    events: Events = QUIET,
) -> AnswersWritten:
    """Ask a black box about frames, as they are, and write ``out/NAME.png`` for each.

    Args:
        source: see `open_black_box`, as ``space`` and ``wiring``.
        frames: folders, images, videos and bags.
        out: gets class indices at the frame's size, as `roadshift run` writes them.
        soft: also NAME.npz, probabilities as the black box gives them, in float16.
        resume: what ``out`` has is not asked again.
        overwrite: what ``out`` has is replaced.

    Raises:
        ConfigError: the label space is not known.
        OutputError: ``out`` holds answers and neither ``resume`` nor ``overwrite`` is set, or
            cannot be written.
        RunInterrupted: a stop was requested; what was answered stays.
        RoadshiftError: any other of its subclasses.
    """
    black_box = open_black_box(source, wiring, space, events.note)
    known = black_box.label_space or space
    if known is None:
        raise ConfigError(
            f"The black box does not say what its classes are: give {arg('label_space')}."
        )
    found = open_frames([str(frame) for frame in frames], on_skip=events.note)
    if not (resume or overwrite):
        _refuse_full(out)
    began, counts, asked, kept = time.monotonic(), np.zeros(NO_CLASS + 1, np.int64), 0, 0
    for frame in found:
        events.stop_if_requested()
        if resume and all((out / f"{frame.name}{s}").exists() for s in _suffixes(soft)):
            kept += 1
            continue
        labels = _write_answer(black_box, frame, out, known.num_classes, soft)
        counts += np.bincount(labels.ravel(), minlength=len(counts))
        asked += 1
        rate = asked / max(time.monotonic() - began, 1e-9)
        events.report_phase(ProgressUpdate("asking", "frames", asked + kept, found.length, rate))
    seconds, pixels = time.monotonic() - began, max(int(counts.sum()), 1)
    shares = {name: int(counts[i]) / pixels for i, name in enumerate(known.classes)}
    return AnswersWritten(out, asked, kept, seconds, shares)


def _suffixes(soft: bool) -> tuple[str, ...]:
    return (".npz", ".png") if soft else (".png",)


def _refuse_full(out: Path) -> None:
    """Refuse a folder that holds something."""
    with output_errors(out):
        if out.exists() and any(out.iterdir()):
            raise OutputError(
                f"{out}: holds files already; go on with {arg('resume', True)}, replace them with "
                f"{arg('overwrite', True)}, or give another {arg('out')}."
            )


def _write_answer(
    black_box: BlackBox, frame: Frame, out: Path, num_classes: int, soft: bool
) -> NDArray[np.uint8]:
    """Write the answer to one frame, into the folder that the first one makes.

    Returns:
        its class indices at the frame's size.
    """
    answer = black_box.answer(frame.name, np.array(frame.image))
    answer = checked_answer(answer, num_classes, f"the answer to frame {frame.name}")
    if soft and answer.ndim == 2:
        raise ConfigError(
            f"{arg('soft', True)}: the black box answers in classes, not in probabilities; "
            "leave it out."
        )
    with output_errors(out):
        out.mkdir(exist_ok=True)
    if soft:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, answer.astype(np.float16))
        write_whole(out / f"{frame.name}.npz", buffer.getvalue())
    labels = labels_of(answer, *frame.image.shape[:2])
    write_image(out / f"{frame.name}.png", labels)
    return labels


def labels_of(answer: Answer, height: int, width: int) -> NDArray[np.uint8]:
    """Class indices (``height``, ``width``) of an answer.

    Args:
        answer: checked; probabilities (K, h, w) are interpolated bilinearly before the largest is
            taken, class indices (h, w) are taken at the nearest pixel.
    """
    if answer.ndim == 2:
        return restore_labels(answer, width, height)
    resized = [
        cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in answer
    ]
    return np.asarray(np.argmax(resized, axis=0), np.uint8)
