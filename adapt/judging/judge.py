"""From an incumbent, a candidate and frames to a verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ...runtime.bundle import Bundle
from ...runtime.errors import (
    BundleError,
    ConfigError,
    FrameError,
    LabelSpaceError,
    RoadshiftError,
    RunInterrupted,
)
from ...runtime.frames import Frame, open_frames
from ...runtime.verdict import Verdict
from ..budget import Repeated
from ..context import Context
from ..core_sharing import sharing_cores
from ..dataset import LEAST_TO_JUDGE, FrameSet, evenly_spaced, thinned
from ..models import load_network, pick_device
from ..weight_checks import BrokenWeightsError
from ..work import spread
from .evidence import BATCH, Evidence, gather
from .verdict import broken, decide
from .views import Image, Model

PASSES_A_FRAME = 8  # of whole frames: three views of two models, and the second opinion
JUDGED_ON = 32  # frames at most, unless a user says otherwise
Note = Callable[[str], None]
GATES = ("refuse", "warn", "off")


def choose_gate(asked: str | None, method: str, black_box: bool, note: Note) -> str:
    """What `--gate` says, or where it says nothing "refuse"; "off" for a black-box method.

    Raises:
        ConfigError: it is none of `GATES`, or a black-box method cannot have it.
    """
    if asked is not None and asked not in GATES:
        raise ConfigError(f"--gate {asked!r}: is one of {', '.join(GATES)}.")
    if not black_box:
        return asked or "refuse"
    if asked not in (None, "off"):
        raise ConfigError(
            f"--gate {asked}: {method} knows its source model by its answers alone, so there is no "
            "incumbent to judge its student against; leave the option out."
        )
    if asked is None:
        note("no gate: a student of a black box has no incumbent to be judged against")
    return "off"


def judge_run(incumbent: Bundle, candidate: Model, context: Context) -> Verdict:
    """The verdict on what a run has made, on at most 32 of the frames that it set aside.

    A frame that cannot be read is left out with a note. Whatever goes wrong, a person is asked,
    with the reason: steps that are done are not lost because judging fails. So he is where the
    incumbent's files are no longer those that the run started from.

    Raises:
        RunInterrupted: a signal came.
    """
    held = context.held
    if held is None:
        return _ask(incumbent, _why_none_is_held(len(context.frames)))
    context.note("judging the result against the incumbent, without labels")
    try:
        return _judged(incumbent, candidate, context, held)
    except RunInterrupted:
        raise
    except FrameError as error:
        return _ask(incumbent, str(error))
    except BundleError as error:
        return _ask(
            incumbent,
            f"The incumbent changed while the run went on, and nothing was judged: {error}",
        )
    except Exception as error:  # a network of a user's own may raise anything; the run is not lost
        first = next(iter(str(error).splitlines()), "")
        reason = first if isinstance(error, RoadshiftError) else f"{type(error).__name__}: {first}"
        return _ask(incumbent, f"The result could not be judged ({reason.rstrip(' .:')}).")


def _judged(incumbent: Bundle, candidate: Model, context: Context, held: FrameSet) -> Verdict:
    started, deadline = time.monotonic(), context.work.deadline
    batches = Repeated(deadline, PASSES_A_FRAME * BATCH)
    if not batches.fits():
        return _ask(incumbent, "The time budget left no time to judge the result.")
    old = Model(load_network(incumbent, context.device), incumbent.manifest.input)
    chosen = evenly_spaced(len(held), JUDGED_ON)
    if deadline.bounded:  # they may be cut short
        chosen = [chosen[i] for i in spread(len(chosen))]
    with context.work.phase("judging", len(chosen)) as done:
        evidence = gather(
            old,
            candidate,
            _shown(_readable(held.only(chosen), context.note), done),
            context.device,
            stop=context.stop_if_requested,
            due=lambda: not batches.fits(),
        )
    return _decided(evidence, incumbent, started)


def _ask(incumbent: Bundle, sentence: str) -> Verdict:
    return Verdict("ask", sentence, (), 0, incumbent=incumbent.hash)


def _why_none_is_held(frames: int) -> str:
    if frames < LEAST_TO_JUDGE:
        return (
            f"{frames} frames are too few to set some aside and judge on them; give at least "
            f"{LEAST_TO_JUDGE}."
        )
    return (
        f"This run began with --gate off and learned from all {frames} frames, so none is left to "
        "judge it on; use roadshift judge with others."
    )


def _shown(frames: Iterable[Image], done: Callable[[int], None]) -> Iterator[Image]:
    for count, frame in enumerate(frames, 1):
        yield frame
        done(count)


@sharing_cores()
def judge_bundles(
    incumbent: Bundle,
    candidate: Bundle,
    sources: Sequence[str | Path],
    *,
    device: str = "auto",
    max_frames: int = JUDGED_ON,
    note: Note = lambda _: None,
    report: Callable[[int, int | None], None] = lambda *_: None,
    stop: Callable[[], None] = lambda: None,
) -> Verdict:
    """Whether ``candidate`` should replace ``incumbent``, from frames that it did not learn from.

    Args:
        sources: folders, images and videos.
        max_frames: look at no more, evenly spaced.
        note: called with a sentence for every frame that cannot be read.
        report: called with the frames done and, where that is known, those in all.
        stop: called before every batch of frames; may raise.

    Raises:
        ConfigError: both are the same model, or there is no such device.
        LabelSpaceError: their classes differ.
        FrameError: a source does not exist or holds no readable frame.
        NetworkError: a bundle holds no weights, or the incumbent's are broken.
    """
    _check_pair(incumbent, candidate)
    run_on = pick_device(device)
    started = time.monotonic()
    source = open_frames([str(one) for one in sources], on_skip=note)
    total = None if source.length is None else min(source.length, max_frames)
    old = Model(load_network(incumbent, run_on), incumbent.manifest.input)
    try:
        new = Model(load_network(candidate, run_on), candidate.manifest.input)
    except BrokenWeightsError as error:
        sentence = f"The candidate's weights are not numbers: {error}"
        verdict = broken(sentence, 0, time.monotonic() - started)
        return replace(verdict, incumbent=incumbent.hash)
    report(0, total)
    images = _counted(thinned(source, max_frames, note), total, report)
    evidence = gather(old, new, images, run_on, stop=stop)
    return _decided(evidence, incumbent, started)


def _decided(evidence: Evidence, incumbent: Bundle, started: float) -> Verdict:
    """The verdict for a manifest, which holds no NaN: a score that does not exist is None there."""
    verdict = decide(evidence, incumbent.label_space.classes, time.monotonic() - started)
    checks = tuple(
        replace(
            check,
            incumbent=_number(check.incumbent),
            candidate=_number(check.candidate),
            low=_number(check.low),
            high=_number(check.high),
        )
        for check in verdict.checks
    )
    return replace(verdict, checks=checks, incumbent=incumbent.hash)


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _check_pair(incumbent: Bundle, candidate: Bundle) -> None:
    old, new = incumbent.label_space, candidate.label_space
    if old.classes != new.classes:
        raise LabelSpaceError(
            f"{candidate.path}: its label space {new.name} ({new.num_classes} classes) is not that "
            f"of {incumbent.path}, {old.name} ({old.num_classes} classes); only models with the "
            "same classes can be judged against each other."
        )
    weights = [bundle.artefact(kind="weights") for bundle in (incumbent, candidate)]
    same_weights = weights[0] and weights[1] and weights[0].sha256 == weights[1].sha256
    ours, theirs = incumbent.manifest, candidate.manifest
    if same_weights and (ours.input, ours.network) == (theirs.input, theirs.network):
        raise ConfigError(
            f"{candidate.path}: is the same model as {incumbent.path}, so there is nothing to "
            "judge; give an incumbent and a candidate."
        )


def _readable(frames: FrameSet, note: Note) -> Iterator[Image]:
    for i in range(len(frames)):
        try:
            yield frames.image(i)
        except FrameError as error:  # noqa: PERF203 - the others are judged on
            note(f"left out: {error}")


def _counted(
    frames: Iterable[Frame], total: int | None, report: Callable[[int, int | None], None]
) -> Iterator[Image]:
    for done, frame in enumerate(frames, 1):
        yield frame.image
        report(done, total)
