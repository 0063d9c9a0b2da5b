"""Frames worth labelling, with pre-labels for the tool that labels: `roadshift select`.

All frames are looked at once; the chosen ones are then read again and pre-labelled, one at a time.
The folder appears whole or not at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...runtime.arguments import ProgressUpdate, Source, Sources, sources
from ...runtime.atomic import check_parent, flush, output_errors, publish, staging_folder
from ...runtime.bundle import Bundle, opened
from ...runtime.errors import ConfigError, FrameError, OutputError, Sentence, arg, naming
from ...runtime.file_names import STAGED, check_name
from ...runtime.frames import Frame, FrameSource, open_frames
from ...runtime.frames.preprocess import fit_frame
from ...runtime.given import path_of, seed_of, switches, whole_of
from ...runtime.labels import LabelSpace
from ...runtime.notes import log_note
from ...runtime.printable import encodable
from ...runtime.words import counted, shortened
from ..data.dataset import thinned
from ..models.inputs import Normalise
from ..models.loading import load_network, pick_device
from ..models.torch_engine import TorchEngine
from ..run.core_sharing import sharing_cores
from ..run.events import Events
from ..run.work import Work
from ..selecting.archive import PreLabelled
from ..selecting.choice import CHOOSERS, DEFAULT
from ..selecting.formats import FORMATS
from ..selecting.informativeness import Informativeness, informativeness

RECORD = "selection.json"
MAX_FRAMES = 3000  # looked at, unless a user says otherwise


@dataclass(frozen=True)
class FrameSelection:
    """Frames that were chosen.

    Attributes:
        out: the folder, in the tool's layout, with ``selection.json``.
        tool: that reads it.
        frames: name and uncertainty of each, 0 to 1, the most useful one first.
        origins: of each of them, in that order: the image file, or its time in a video or a bag.
        looked_at: frames that they were chosen among.
        skipped: a sentence on each frame that could not be read.
        seconds: that it took.
    """

    out: Path
    tool: str
    frames: tuple[tuple[str, float], ...]
    origins: tuple[dict[str, str | int], ...]
    looked_at: int
    skipped: tuple[str, ...]
    seconds: float

    def record(self) -> dict[str, Any]:
        """The selection as ``roadshift select --json`` prints it."""
        record: dict[str, Any] = encodable(
            {
                "out": str(self.out),
                "to": self.tool,
                "frames": [
                    {"name": name, "uncertainty": value, **origin}
                    for (name, value), origin in zip(self.frames, self.origins, strict=True)
                ],
                "looked_at": self.looked_at,
                "skipped": list(self.skipped),
                "seconds": self.seconds,
            }
        )
        return record


@sharing_cores()
@naming(frames=FrameError, out=OutputError)
def select_frames(
    bundle: Bundle | Source,
    frames: Sources,
    *,
    out: Source,
    tool: str,
    count: int = 100,
    by: str = DEFAULT,
    seed: int = 0,
    max_frames: int = MAX_FRAMES,
    device: str = "auto",
    overwrite: bool = False,
    on_note: Callable[[str], None] = log_note,
    on_progress: Callable[[ProgressUpdate], None] = lambda _: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> FrameSelection:
    """Choose the frames that are most worth labelling, and write them for a tool that labels.

    Args:
        bundle: the model, whose labels are a start for whoever labels.
        frames: a folder, an image, a video or a bag, or several of these.
        out: folder to write; ``overwrite`` replaces a selection that is there.
        tool: one of `FORMATS`.
        count: frames to choose.
        by: one of `CHOOSERS`.
        seed: of "random".
        max_frames: look at no more, evenly spaced.
        on_note, on_progress, stop_requested: see `roadshift.judge_bundles`.

    Raises:
        RoadshiftError: an argument is malformed, the bundle has no weights, no frame can be read,
            or ``out`` cannot be written.
        RunInterrupted: a stop was requested; nothing was written.
    """
    began = time.monotonic()
    _check_one_of("tool", tool, FORMATS)
    _check_one_of("by", by, CHOOSERS)
    whole_of("count", count)
    whole_of("max_frames", max_frames)
    switches(overwrite=overwrite)
    seed_of(seed)
    target = path_of("out", out)
    check_selection_output(target, overwrite)
    events = Events(
        on_note, on_progress, on_progress, stop_requested, "Stopped; nothing was written."
    )
    given, run_on = opened(bundle), pick_device(device)
    network = load_network(given, run_on)
    found = open_frames(sources("frames", frames), on_skip=on_note)
    work = Work(events=events)
    seen = given.manifest.input
    engine = TorchEngine(network, given.label_space, seen, device=run_on)
    normalise = Normalise(seen).to(run_on)
    files = {name: str(path.absolute()) for name, path in found.image_files.items()}
    names: list[str] = []
    origins: list[dict[str, str | int]] = []
    facts: list[Informativeness] = []
    total = max_frames if found.length is None else min(found.length, max_frames)
    with work.phase("looking", total) as done:
        for frame in thinned(found, max_frames, work):
            events.stop_if_requested()
            fitted = torch.from_numpy(fit_frame(frame.image, seen.width, seen.height)[None])
            facts += informativeness(network, normalise, fitted.to(run_on))
            names.append(frame.name)
            file = files.get(frame.name)
            origins.append({"file": file} if file else {"timestamp_ns": frame.timestamp_ns})
            done(len(names))
    chosen = CHOOSERS[by](facts, count, seed)
    if len(chosen) < count:
        on_note(
            Sentence(
                f"there are {counted(len(chosen), 'frame')} to choose from, fewer than "
                f"{arg('count')}: all of them are taken"
            )
        )
    selection = FrameSelection(
        target,
        tool,
        tuple((names[i], round(facts[i].uncertainty, 4)) for i in chosen),
        tuple(origins[i] for i in chosen),
        len(names),
        tuple(found.skipped),
        0.0,
    )
    with staging_folder(target.resolve()) as folder, output_errors(target):
        archive = FORMATS[tool](folder, given.label_space)
        wanted = {names[i] for i in chosen}
        with work.phase("pre-labelling", len(chosen)) as done:
            for number, frame in enumerate(_named(found, wanted), 1):
                events.stop_if_requested()
                labels = engine.segment(frame)
                archive.add(_prelabelled(frame, labels, given.label_space))
                done(number)
        archive.finish()
        record = selection.record() | {"bundle": str(given.path), "by": by}
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        check_selection_output(target, overwrite)
        for path in folder.rglob("*"):
            flush(path)
        publish(folder, target.resolve(), replace=target.exists())
    return replace(selection, seconds=time.monotonic() - began)


def _named(found: FrameSource, wanted: set[str]) -> Iterator[Frame]:
    """The frames of these names, in order of time; of folders of images, no other is read."""
    stills = found.stills
    if stills is not None:
        found = found.only([i for i, (_, name) in enumerate(stills) if name in wanted])
    left = len(wanted)
    for frame in found:
        if frame.name in wanted:
            yield frame
            left -= 1
        if not left:
            return


def _prelabelled(frame: Frame, labels: Any, space: LabelSpace) -> PreLabelled:
    """A frame with its labels, without those that no ground truth holds."""
    for name in space.never_labelled:
        labels = labels.copy()
        labels[labels == space.classes.index(name)] = space.ignore_index
    return PreLabelled(frame.name, frame.image, labels)


def _check_one_of(argument: str, given: str, known: Sequence[str] | dict[str, Any]) -> None:
    if not isinstance(given, str) or given not in known:
        raise ConfigError(
            f"{arg(argument)} {shortened(str(given))!r} is none of {', '.join(known)}."
        )


def check_selection_output(out: Path, overwrite: bool) -> None:
    """Refuse an output folder before any work.

    Raises:
        OutputError: it exists, unless it is empty, or ``overwrite`` and it is a selection; or its
            name or place cannot be written.
    """
    check_name(out, STAGED, inside=True)
    check_parent(out)
    with output_errors(out):
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return
        ours = (out / RECORD).is_file()
    if not ours:
        raise OutputError(
            f"{out}: exists and is no selection, so it is never overwritten; choose another name."
        )
    if not overwrite:
        raise OutputError(
            f"{out}: already exists; choose another name or use {arg('overwrite', True)}."
        )
