"""Figures of the papers on frames of one's own: `roadshift explain`, `roadshift.explain`.

One frame is in memory at a time. The folder appears whole or not at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...runtime.arguments import ProgressUpdate, Source, Sources, sources
from ...runtime.atomic import flush, output_errors, publish, staging_folder
from ...runtime.bundle import Bundle, opened
from ...runtime.errors import (
    ConfigError,
    FrameError,
    LabelSpaceError,
    OutputError,
    Sentence,
    arg,
    naming,
)
from ...runtime.file_names import STAGED, check_name
from ...runtime.frames import Frame, FrameSource, open_frames
from ...runtime.given import path_of, seed_of, switches, whole_of
from ...runtime.notes import log_note
from ...runtime.printable import encodable
from ...runtime.video.damage_watch import DamageWatch
from ...runtime.words import shortened
from ..data.dataset import thinned
from ..explaining.frame_figures import METHODS
from ..explaining.totals import Totals, percent_of
from ..models.loading import load_network, pick_device
from ..run.core_sharing import sharing_cores
from ..run.events import Events
from ..run.work import Work
from ..scoring.views import ScoredModel
from .explained_frames import ExplainedFrames
from .explanation_page import overall_figures, write_page

MAX_FRAMES = 8  # unless a user says otherwise
RECORD = "explanation.json"
PAGE = "index.html"
SOURCE, ADAPTED, ONLY = "source", "adapted", "model"  # names of the models


@dataclass(frozen=True)
class Explanation:
    """Findings of an explanation, and the place of its page.

    Attributes:
        out: the folder, with the page ``index.html`` and its pictures.
        bundle: the model's; ``source``: its source model's, or None.
        frames: each frame's name, the share of pixels, in percent, on which both models differ and
            on which each model agrees with its prototypes, and its pictures' files and captions.
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


@sharing_cores()
@naming(frames=FrameError, out=OutputError)
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
            f"{arg('method')} {shortened(str(method))!r} is none of {', '.join(METHODS)}, all."
        )
    whole_of("max_frames", max_frames)
    switches(overwrite=overwrite)
    seed_of(seed)
    target = path_of("out", out)
    check_explanation_output(target, overwrite)
    events = Events(
        on_note, on_progress, on_progress, stop_requested, "Stopped; nothing was written."
    )
    given, teacher = opened(bundle), None if source is None else opened(source, "source")
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
        seen = given.manifest.input
        state = ExplainedFrames(
            models,
            given.label_space,
            (seen.height, seen.width),
            method,
            run_on,
            folder,
            Path(scratch),
            Totals(models, given.label_space.num_classes, total, seed),
            on_note,
        )
        work = Work(events=events)
        chosen = thinned(found, max_frames, work)
        with work.phase("explaining", total) as done:
            for frame in _watched(found, chosen, events):
                events.stop_if_requested()
                state.add(frame)
                done(len(state.frames) + len(state.skipped))
        if not state.frames:
            raise FrameError(f"No frame could be explained; the first: {state.skipped[0]}")
        state.add_positives()
        figures, missing = overall_figures(state.totals, given, method, seed, folder, events)
        explanation = Explanation(
            target,
            given.path,
            None if teacher is None else teacher.path,
            tuple(one.record() for one in state.frames),
            state.class_share(),
            tuple(percent_of(state.totals.ranks)) if teacher is not None else (),
            tuple(str(file) for file, _ in figures),
            missing,
            (*(chosen if isinstance(chosen, FrameSource) else found).skipped, *state.skipped),
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
            for path in folder.rglob("*"):
                flush(path)
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
            f"({teacher.label_space.num_classes} classes) is not that of "
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


def _watched(found: FrameSource, chosen: Iterable[Frame], events: Events) -> Iterator[Frame]:
    """The chosen frames of ``found``; behind them, damage of its videos is said."""
    with DamageWatch(events.note) as watch:
        found.watch = watch
        yield from chosen
        watch.finish(stop=events.stop_if_requested)
