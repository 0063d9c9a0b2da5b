"""Figures of the papers on frames of one's own: `roadshift explain`, `roadshift.explain`.

One frame is in memory at a time. The folder appears whole or not at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...runtime.arguments import ProgressUpdate, Source, Sources, above_zero, opened, sources
from ...runtime.atomic import output_errors, publish, staging_folder
from ...runtime.bundle import Bundle
from ...runtime.errors import (
    ConfigError,
    EngineError,
    FrameError,
    LabelSpaceError,
    OutputError,
    Sentence,
    arg,
)
from ...runtime.file_names import STAGED, check_name
from ...runtime.frames import Frame, FrameSource, open_frames
from ...runtime.frames.images import Image, write_image
from ...runtime.frames.preprocess import fit_frame
from ...runtime.notes import log_note
from ...runtime.printable import encodable
from ...runtime.video.damage_watch import DamageWatch
from ...runtime.words import counted, shortened
from ..data.dataset import thinned
from ..explaining.frame_figures import (
    METHODS,
    POSITIVE_SHARES,
    Figure,
    frame_figures,
    positive_figure,
)
from ..explaining.frame_maps import ModelMaps, answer, maps_of
from ..explaining.totals import Totals, percent_of
from ..losses.common import IGNORED, Size
from ..models.loading import load_network, pick_device
from ..pseudo_labels.hard_labels import PseudoLabels, selected
from ..run.core_sharing import sharing_cores
from ..run.events import Events
from ..run.work import Work
from ..scoring.views import ScoredModel
from .explanation_page import FiguresOfFrame, overall_figures, write_page

MAX_FRAMES = 8  # unless a user says otherwise
RECORD = "explanation.json"
PAGE = "index.html"
SOURCE, ADAPTED, ONLY = "source", "adapted", "model"  # names of the models


@dataclass(frozen=True)
class Explanation:
    """What an explanation found, and where it lies.

    Attributes:
        out: the folder, with the page ``index.html`` and its pictures.
        bundle: the model's; ``source``: its source model's, or None.
        frames: each frame's name, the share of pixels, in percent, on which both models differ and
            on which each model agrees with its prototypes, and the files of its pictures.
        class_share: percent of all pixels that each model gives each class.
        ranks: percent of all pixels whose class by the model has rank 1, 2, ... with its source
            model; empty without one.
        figures: files of the pictures that show all frames together.
        missing: why a figure is not there, by figure.
        skipped: a sentence on each frame that could not be read or explained.
        seconds: that it took.
    """

    out: Path
    bundle: Path
    source: Path | None
    frames: tuple[Mapping[str, Any], ...]
    class_share: Mapping[str, Mapping[str, float]]
    ranks: tuple[float, ...]
    figures: tuple[str, ...]
    missing: Mapping[str, str]
    skipped: tuple[str, ...]
    seconds: float

    @property
    def page(self) -> Path:
        """The page to look at."""
        return self.out / PAGE

    def record(self) -> dict[str, Any]:
        """The explanation as ``roadshift explain --json`` prints it."""
        source = None if self.source is None else str(self.source)
        found = asdict(self) | {"out": str(self.out), "bundle": str(self.bundle), "source": source}
        record: dict[str, Any] = encodable(found | {"page": str(self.page)})
        return record


@dataclass
class _Explained:
    """An explanation in the making: its models, what was found so far, and where it goes."""

    models: Mapping[str, ScoredModel]
    bundle: Bundle
    method: str
    device: torch.device
    events: Events
    folder: Path
    stored: Mapping[str, PseudoLabels]
    totals: Totals
    digits: int
    frames: list[FiguresOfFrame] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def size(self) -> Size:
        seen = self.bundle.manifest.input
        return seen.height, seen.width


@sharing_cores()
def explain(
    bundle: Bundle | Source,
    frames: Sources,
    *,
    out: Source,
    source: Bundle | Source | None = None,
    method: str = "all",
    max_frames: int = MAX_FRAMES,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    on_note: Callable[[str], None] = log_note,
    on_progress: Callable[[ProgressUpdate], None] = lambda _: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Explanation:
    """Show what the methods see in frames: maps that they learn from, as pictures and a page.

    No label is read.

    Args:
        bundle: the model, adapted or not, or its folder.
        frames: a folder, an image or a video, or several of these.
        out: folder to write; ``overwrite`` replaces an explanation that is there.
        source: the source model of ``bundle``, to be shown beside it and taken as the teacher;
            without it the model itself is the teacher.
        method: "iapc", "ld" or "atp": leave out the figures of the others; "all".
        max_frames: look at no more, evenly spaced.
        seed: of the positions drawn for t-SNE, and of t-SNE.
        on_note, on_progress, stop_requested: see `roadshift.judge_bundles`.

    Raises:
        RoadshiftError: an argument is malformed, a bundle has no weights, the models' classes
            differ, no frame can be explained, or ``out`` cannot be written.
        RunInterrupted: a stop was requested; nothing was written.
    """
    began = time.monotonic()
    if method not in (*METHODS, "all"):
        raise ConfigError(
            f"{arg('method')} {shortened(str(method))!r}: is one of {', '.join(METHODS)}, all."
        )
    above_zero("max_frames", max_frames)
    target = Path(out)
    check_explanation_output(target, overwrite)
    events = Events(
        on_note, on_progress, on_progress, stop_requested, "Stopped; nothing was written."
    )
    given, teacher = opened(bundle), None if source is None else opened(source)
    if teacher is not None:
        _check_pair(given, teacher, on_note)
    asked = sources("frames", frames)
    run_on = pick_device(device)
    found = open_frames(asked, on_skip=on_note)
    bundles = {ONLY: given} if teacher is None else {SOURCE: teacher, ADAPTED: given}
    models = {
        name: ScoredModel(load_network(one, run_on), one.manifest.input)
        for name, one in bundles.items()
    }
    total = max_frames if found.length is None else max(1, min(found.length, max_frames))
    with staging_folder(target.resolve()) as folder, TemporaryDirectory() as scratch:
        state = _Explained(
            models,
            given,
            method,
            run_on,
            events,
            folder,
            {name: PseudoLabels(Path(scratch) / name, on_note) for name in models},
            Totals(models, given.label_space.num_classes, total, seed),
            len(str(total)),
        )
        with Work(events=events).phase("explaining", total) as done:
            for frame in _thinned(found, max_frames, events):
                events.stop_if_requested()
                _add_frame(state, frame)
                done(len(state.frames))
        if not state.frames:
            raise FrameError(f"No frame could be explained; the first: {state.skipped[0]}")
        _add_positives(state)
        figures, missing = overall_figures(state.totals, given, method, seed, folder, events)
        explanation = Explanation(
            target,
            given.path,
            None if teacher is None else teacher.path,
            tuple(one.record() for one in state.frames),
            _class_share(state),
            tuple(percent_of(state.totals.ranks)) if teacher is not None else (),
            tuple(str(file) for file, _ in figures),
            missing,
            (*found.skipped, *state.skipped),
            time.monotonic() - began,
        )
        with output_errors(target):
            (folder / RECORD).write_text(
                json.dumps(explanation.record(), indent=1, allow_nan=False) + "\n", encoding="utf-8"
            )
        write_page(
            folder / PAGE,
            explanation.record(),
            bundles,
            state.frames,
            figures,
            device=run_on,
        )
        check_explanation_output(target, overwrite)
        with output_errors(target):
            publish(folder, target.resolve(), replace=overwrite)
    return explanation


def check_explanation_output(out: Path, overwrite: bool) -> None:
    """Refuse an output folder before any work.

    Raises:
        OutputError: it exists, unless it is empty, or ``overwrite`` and it is an explanation; or
            its name or place cannot be written.
    """
    check_name(out, STAGED, inside=True)
    with output_errors(out):
        if not out.exists():
            return
        if out.is_dir() and not any(out.iterdir()):
            if not overwrite:
                out.rmdir()
            return
        ours = (out / RECORD).is_file() and (out / PAGE).is_file()
    if not ours:
        raise OutputError(
            f"{out}: exists and is no explanation, so it is never overwritten; choose another name."
        )
    if not overwrite:
        raise OutputError(
            f"{out}: already exists; choose another name or use {arg('overwrite', True)}."
        )


def _check_pair(given: Bundle, teacher: Bundle, note: Callable[[str], None]) -> None:
    """Refuse models of different classes; say if the teacher is not known to be the parent."""
    if given.label_space.classes != teacher.label_space.classes:
        raise LabelSpaceError(
            f"{teacher.path}: its label space {teacher.label_space.name} "
            f"({counted(teacher.label_space.num_classes, 'class')[:-1]}es) is not that of "
            f"{given.path}, {given.label_space.name}; give the source model that it was adapted "
            "from."
        )
    parent = given.manifest.provenance.parent
    if parent is not None and parent != teacher.hash:
        note(
            Sentence(
                f"{given.path} names another parent than {teacher.path} ({arg('source')}): this is "
                "not the model that it was adapted from, or was exported since"
            )
        )


def _thinned(found: FrameSource, most: int, events: Events) -> Iterator[Frame]:
    """At most so many frames, evenly spaced; behind them, damage of videos is said."""
    with DamageWatch(events.note) as watch:
        found.watch = watch
        yield from thinned(found, most, events.note)
        watch.finish(stop=events.stop_if_requested)


def _add_frame(state: _Explained, frame: Frame) -> None:
    """Explain one frame; one that a model has no finite answer to is said and left out."""
    number, (height, width) = len(state.frames), state.size
    try:
        outputs = {
            name: answer(model, frame.image, state.device) for name, model in state.models.items()
        }
    except EngineError as error:
        sentence = f"{frame.name}: left out, {error}."
        state.skipped.append(sentence)
        state.events.note(sentence)
        return
    maps = {
        name: maps_of(output, state.size, align_corners=_align_corners(state, name))
        for name, output in outputs.items()
    }
    state.totals.add(number, outputs, maps, state.size)
    fitted = fit_frame(frame.image, width, height)
    figures = FiguresOfFrame(
        f"frame-{number + 1:0{state.digits}d}", frame.name, _differ(maps), _consistent(maps)
    )
    space = state.bundle.label_space
    for figure, picture in frame_figures(fitted, maps, state.method, space):
        _write(state, figures, figure, picture)
    for name, one in maps.items():
        state.stored[name].write(number, one.labels, one.bins)
    state.frames.append(figures)


def _add_positives(state: _Explained) -> None:
    """Draw the positive labels, whose thresholds follow from all frames."""
    space = state.bundle.label_space
    wanted = {m: s for m, s in POSITIVE_SHARES.items() if state.method in (m, "all")}
    numbers = range(len(state.frames))
    if not wanted:
        return
    histograms = {
        name: stored.histograms(space.num_classes, numbers) for name, stored in state.stored.items()
    }
    for number in numbers:
        read = {name: _stored(stored, number) for name, stored in state.stored.items()}
        labels = {name: classes for name, (classes, _) in read.items()}
        for method, share in wanted.items():
            chosen = {
                name: _reaching(*read[name], histograms[name].thresholds(share)) for name in read
            }
            figure, picture = positive_figure(method, labels, chosen, space)
            _write(state, state.frames[number], figure, picture)


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


def _write(state: _Explained, frame: FiguresOfFrame, figure: Figure, picture: Image) -> None:
    folder = state.folder / frame.folder
    with output_errors(state.folder):
        folder.mkdir(exist_ok=True)
    write_image(folder / f"{figure.key}.png", picture)
    frame.figures.append(figure)


def _align_corners(state: _Explained, name: str) -> bool:
    return state.models[name].network.align_corners


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


def _class_share(state: _Explained) -> dict[str, dict[str, float]]:
    shares = {name: percent_of(counts) for name, counts in state.totals.pixels.items()}
    return {
        label: {name: share[i] for name, share in shares.items()}
        for i, label in enumerate(state.bundle.label_space.classes)
    }
