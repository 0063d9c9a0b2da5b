"""Frames of an explanation, one after the other: what every model says of each, as pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...runtime.atomic import output_errors
from ...runtime.errors import EngineError, OutputError
from ...runtime.frames import Frame
from ...runtime.frames.images import Image, write_image
from ...runtime.frames.preprocess import fit_frame
from ...runtime.labels import LabelSpace
from ..explaining.frame_figures import (
    POSITIVE_SHARES,
    Figure,
    frame_figures,
    positive_figure,
)
from ..explaining.frame_maps import ModelMaps, answer, maps_of
from ..explaining.totals import Totals, percent_of
from ..losses.common import IGNORED, Size
from ..pseudo_labels.hard_labels import PseudoLabels, selected
from ..scoring.views import ScoredModel
from .explanation_page import FiguresOfFrame


@dataclass
class ExplainedFrames:
    """Frames explained so far; of each, its figures' words stay in memory, and no picture.

    Args:
        models: by name, the teacher first.
        size: (H, W) of all maps.
        method: see `frame_figures`.
        folder: where pictures go.
        scratch: where the labels of frames lie until the thresholds of all are known.
        note: told of a frame that is left out.

    Attributes:
        skipped: a sentence on each frame that was left out.
    """

    models: Mapping[str, ScoredModel]
    space: LabelSpace
    size: Size
    method: str
    device: torch.device
    folder: Path
    scratch: Path
    totals: Totals
    note: Callable[[str], None]
    frames: list[FiguresOfFrame] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, frame: Frame) -> None:
        """Explain one frame; one that a model has no finite answer to is said and left out."""
        number, (height, width) = len(self.frames), self.size
        try:
            outputs = {
                name: answer(model, frame.image, self.device) for name, model in self.models.items()
            }
        except EngineError as error:
            sentence = f"{frame.name}: left out, {error}."
            self.skipped.append(sentence)
            self.note(sentence)
            return
        maps = {
            name: maps_of(output, self.size, align_corners=self.models[name].network.align_corners)
            for name, output in outputs.items()
        }
        self.totals.add(number, outputs, maps, self.size)
        fitted = fit_frame(frame.image, width, height)
        figures = FiguresOfFrame(
            f"frame-{number + 1:03d}", frame.name, _differ(maps), _consistent(maps)
        )
        for figure, picture in frame_figures(fitted, maps, self.method, self.space):
            self._write(figures, figure, picture)
        for name, one in maps.items():
            self._stored_by(name).write(number, one.labels, one.bins)
        self.frames.append(figures)

    def add_positives(self) -> None:
        """Draw the positive labels, whose thresholds follow from all frames."""
        wanted = {m: s for m, s in POSITIVE_SHARES.items() if self.method in (m, "all")}
        numbers = range(len(self.frames))
        if not wanted:
            return
        stores = {name: self._stored_by(name) for name in self.models}
        histograms = {
            name: stored.histograms(self.space.num_classes, numbers)
            for name, stored in stores.items()
        }
        for number in numbers:
            read = {name: _stored(stored, number) for name, stored in stores.items()}
            labels = {name: classes for name, (classes, _) in read.items()}
            for method, share in wanted.items():
                chosen = {
                    name: _reaching(*read[name], histograms[name].thresholds(share))
                    for name in read
                }
                figure, picture = positive_figure(method, labels, chosen, self.space)
                self._write(self.frames[number], figure, picture)

    def class_share(self) -> dict[str, dict[str, float]]:
        """Percent of all pixels that each model gives each class."""
        shares = {name: percent_of(counts) for name, counts in self.totals.pixels.items()}
        return {
            label: {name: share[i] for name, share in shares.items()}
            for i, label in enumerate(self.space.classes)
        }

    def _stored_by(self, name: str) -> PseudoLabels:
        """The labels that a model gave the frames, with their confidence."""
        return PseudoLabels(self.scratch / name, self.note)

    def _write(self, frame: FiguresOfFrame, figure: Figure, picture: Image) -> None:
        folder = self.folder / frame.folder
        with output_errors(self.folder):
            folder.mkdir(exist_ok=True)
        write_image(folder / f"{figure.key}.png", picture)
        frame.figures.append(figure)


def _stored(stored: PseudoLabels, number: int) -> tuple[Image, NDArray[np.uint16]]:
    found = stored.read(number)
    if found is None:
        raise OutputError(
            f"{stored.path(number)}: a temporary file vanished or was damaged; start again."
        )
    return found


def _reaching(
    labels: Image, bins: NDArray[np.uint16], thresholds: torch.Tensor
) -> NDArray[np.bool_]:
    """The pixels whose confidence reaches the threshold of their class, (H, W)."""
    classes, confidence = (torch.from_numpy(part.astype(np.int64)) for part in (labels, bins))
    reached: NDArray[np.bool_] = (selected(classes, confidence, thresholds) != IGNORED).numpy()
    return reached


def _differ(maps: Mapping[str, ModelMaps]) -> float | None:
    """Percent of the pixels on which two models differ; None of one model."""
    if len(maps) < 2:
        return None
    before, after = maps.values()
    return 100 * float((before.labels != after.labels).mean())


def _consistent(maps: Mapping[str, ModelMaps]) -> dict[str, float]:
    """Percent of the pixels on which each model with features agrees with its prototypes."""
    return {
        name: 100 * float((one.labels == one.prototypes.labels).mean())
        for name, one in maps.items()
        if one.prototypes is not None
    }
