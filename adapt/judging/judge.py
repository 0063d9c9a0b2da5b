"""From an incumbent, a candidate and frames to a verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ...runtime.bundle import Bundle
from ...runtime.errors import (
    BundleError,
    ConfigError,
    FrameError,
    LabelSpaceError,
    RoadshiftError,
    RunInterrupted,
    arg,
    naming,
)
from ...runtime.frames import FrameSource, open_frames
from ...runtime.spacing import evenly_spaced
from ...runtime.verdict import Verdict
from ...runtime.video.damage_watch import DamageWatch
from ...runtime.words import counted, shortened
from ..data.context import Context
from ..data.dataset import thinned
from ..data.frame_set import LEAST_TO_JUDGE, FrameSet
from ..models.importing import read_weights
from ..models.loading import load_network, pick_device
from ..models.weight_checks import BrokenWeightsError
from ..networks import SegmentationNetwork
from ..run.budget import Deadline, Repeated
from ..run.core_sharing import sharing_cores
from ..run.events import QUIET, Events
from ..run.work import Work, spread
from ..scoring.references import passes_of_share
from ..scoring.timing import forward_seconds
from ..scoring.views import Image, ScoredModel
from .evidence import BATCH, Evidence, gather
from .forgetting import OLDER, remembered, with_older
from .verdict import LEAST_FRAMES, broken, decide, too_few

# Of whole frames: three views of two models, statistics, and two references (`References`).
PASSES_A_FRAME = 9
JUDGED_ON = 32  # frames at most, unless a user says otherwise
SHARE_OF_RUN = 0.1  # that judging may take of a run's time, unless that leaves too few frames
ENOUGH = 16  # frames, on which a verdict does not wait for a cheaper one
# As often as a file of its weights takes: it is read, hashed and checked, and its network built.
TO_LOAD_THE_INCUMBENT = 3
Note = Callable[[str], None]
FOR_A_VERDICT = 32  # frames of a run, of which `set_aside` sets `LEAST_FRAMES` aside
_NO_TIME = "The time budget left no time to judge the result."
GATES = ("refuse", "warn", "off")


def choose_gate(asked: str | None, method: str, black_box: bool, note: Note) -> str:
    """Choose the gate: the one asked for, else "refuse"; "off" for a black-box method.

    Raises:
        ConfigError: it is none of `GATES`, or a black-box method cannot have it.
    """
    if asked is not None and asked not in GATES:
        raise ConfigError(f"{arg('gate')} {shortened(asked)!r} is none of {', '.join(GATES)}.")
    if not black_box:
        return asked or "refuse"
    if asked not in (None, "off"):
        raise ConfigError(
            f"{arg('gate')} {asked}: {method} knows its source model by its answers alone, so "
            "there is no incumbent to judge its student against; leave the option out."
        )
    if asked is None:
        note("no gate: a student of a black box has no incumbent to be judged against")
    return "off"


def judge_run(
    incumbent: Bundle, candidate: ScoredModel, context: Context, older: Sequence[str | Path] = ()
) -> Verdict:
    """The verdict on what a run has made, on at most 32 of the frames that it set aside.

    A frame that cannot be read is left out with a note. Whatever goes wrong, a person is asked,
    with the reason: steps that are done are not lost because judging fails. So he is where the
    incumbent's files are no longer those that the run started from.

    Args:
        older: sources of frames of other conditions, on which what was forgotten is measured.

    Raises:
        RunInterrupted: a signal came.
    """
    held = context.held
    try:
        if _unchanged(incumbent, candidate):
            sentence = (
                "The run has left the incumbent as it was, so there is nothing to replace it by."
            )
            return Verdict("keep", sentence, (), 0, incumbent=incumbent.hash)
        if held is None:
            return _ask(incumbent, _why_none_is_held(len(context.frames)))
        context.note("judging the result against the incumbent, without labels")
        return _judged(incumbent, candidate, context, held, older)
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


def _judged(
    incumbent: Bundle,
    candidate: ScoredModel,
    context: Context,
    held: FrameSet,
    older: Sequence[str | Path],
) -> Verdict:
    started, deadline = time.monotonic(), context.work.deadline
    least_s = passes_of(BATCH) * deadline.forward_s + TO_LOAD_THE_INCUMBENT * deadline.weights_s
    if deadline.bounded and least_s > deadline.left_s:
        return _ask(incumbent, _NO_TIME)
    old = ScoredModel(load_network(incumbent, context.device), incumbent.manifest.input)
    chosen = evenly_spaced(len(held), JUDGED_ON)
    with context.work.phase("judging", len(chosen)) as done:
        count = affordable(len(chosen), old.network, context)
        if count == 0:
            return _ask(incumbent, _NO_TIME)
        if count < len(chosen):
            chosen = evenly_spaced(len(held), count)
        if deadline.bounded:  # they may be cut short
            chosen = [chosen[i] for i in spread(len(chosen))]
        batches = Repeated(deadline, PASSES_A_FRAME * BATCH)
        evidence = gather(
            old,
            candidate,
            _readable(held.only(chosen), context.note),
            context.device,
            events=context.events,
            due=lambda: not batches.fits(),
            report=done,
        )
    verdict = _decided(evidence, incumbent, started)
    looked_at = evidence.frames + evidence.copies
    if looked_at < LEAST_FRAMES and verdict.sentence == too_few(evidence):
        verdict = replace(verdict, sentence=_why_too_few(looked_at, held, deadline))
    if not older:
        return verdict
    if deadline.due:
        context.note("the time budget left no time for the older frames")
        return verdict
    with context.work.phase("judging on older frames"):
        classes = incumbent.label_space.classes
        try:
            source = open_frames([str(one) for one in older], on_skip=context.note)
            frames = _images(source, OLDER, context.events, due=lambda: deadline.due)
            check = remembered(old, candidate, frames, context.device, classes, context.events)
        except FrameError as error:  # they were there when the run began
            context.note(f"what was forgotten was not measured: {error}")
            return verdict
    return with_older(verdict, check)


def _images(
    source: FrameSource,
    most: int,
    events: Events,
    say: Note = lambda _: None,
    due: Callable[[], bool] = lambda: False,
) -> Iterator[Image]:
    """The images of at most so many frames, evenly spaced; behind them damage is said.

    Args:
        events: told of each video that is damaged, and asked meanwhile whether to stop.
        due: see `DamageWatch.finish`.
        say: called with how many are chosen, where not all are.
    """
    with DamageWatch(events.note) as watch:
        source.watch = watch
        for frame in thinned(source, most, Work(events=replace(events, note=say))):
            yield frame.image
        watch.finish(due=due, stop=events.stop_if_requested)


def passes_of(frames: int) -> int:
    """Passes of one frame that judging on so many takes."""
    return PASSES_A_FRAME * frames + passes_of_share(frames)


def affordable(frames: int, network: SegmentationNetwork, context: Context) -> int:
    """As many of the frames as fit the time budget, or a tenth of the run; said beforehand.

    Without a budget, `ENOUGH` are judged on whatever that takes.
    """
    deadline = context.work.deadline
    if not deadline.forward_s:
        deadline.forward_s = forward_seconds(network, context)
    left_s = deadline.left_s if deadline.bounded else SHARE_OF_RUN * deadline.elapsed_s
    least = BATCH if deadline.bounded else min(ENOUGH, frames)
    count = frames
    while count > least and passes_of(count) * deadline.forward_s > left_s:
        count -= BATCH
    count = max(count, least)
    expected_s = passes_of(count) * deadline.forward_s
    if deadline.bounded and expected_s > left_s:
        return 0
    of = f" of {frames}" if count < frames else ""
    context.note(f"judging on {counted(count, 'frame')}{of}, about {expected_s:.0f} s")
    return count


def _ask(incumbent: Bundle, sentence: str) -> Verdict:
    return Verdict("ask", sentence, (), 0, incumbent=incumbent.hash)


def _unchanged(incumbent: Bundle, candidate: ScoredModel) -> bool:
    """Tell whether the candidate has the incumbent's weights and is fed the same.

    Without building the incumbent's network, for which there may be no time.
    """
    artefact = incumbent.artefact(kind="weights")
    if artefact is None or candidate.spec != incumbent.manifest.input:
        return False
    before = read_weights(incumbent.content(artefact), str(incumbent.file(artefact)))
    now = candidate.network.state_dict()
    return now.keys() == before.keys() and all(
        torch.equal(value.cpu(), before[name])
        for name, value in now.items()
        if not name.endswith("num_batches_tracked")  # which no output depends on
    )


def _why_too_few(looked_at: int, held: FrameSet, deadline: Deadline) -> str:
    """Tell which a run lacked for a verdict: frames, or the time to look at those set aside."""
    if len(held) >= LEAST_FRAMES and deadline.bounded:
        return (
            f"The time budget left time to judge on {counted(looked_at, 'frame')} of {len(held)} "
            f"set aside, and a verdict takes {LEAST_FRAMES}: give more time, or judge the result "
            "with roadshift judge."
        )
    return (
        f"The {counted(looked_at, 'frame')} set aside are too few to judge on: give at least "
        f"{FOR_A_VERDICT} that show different scenes, or judge the result on others with "
        "roadshift judge."
    )


def _why_none_is_held(frames: int) -> str:
    if frames < LEAST_TO_JUDGE:
        return (
            f"{counted(frames, 'frame')} {'is' if frames == 1 else 'are'} too few to set some "
            f"aside and judge on them; give at least {FOR_A_VERDICT}."
        )
    return (
        f"This run began without a gate and learned from all {frames} frames, so none is left to "
        "judge it on; use roadshift judge with others."
    )


@sharing_cores()
def judge_bundles(
    incumbent: Bundle,
    candidate: Bundle,
    sources: Sequence[str | Path],
    *,
    device: str = "auto",
    max_frames: int = JUDGED_ON,
    older: Sequence[str | Path] = (),
    events: Events = QUIET,
) -> Verdict:
    """Judge, on frames not learned from, whether ``candidate`` should replace ``incumbent``.

    Args:
        sources: folders, images and videos.
        max_frames: look at no more, evenly spaced.
        older: sources of frames of other conditions, which the incumbent serves: a candidate that
            has forgotten them is not promoted, a person is asked.
        events: told of every frame that cannot be read and how many are judged, and asked before
            every batch whether to stop.

    Raises:
        ConfigError: both are the same model, or there is no such device.
        LabelSpaceError: their classes differ.
        FrameError: a source does not exist or holds no readable frame.
        NetworkError: a bundle holds no weights, or the incumbent's are broken.
        RunInterrupted: a signal came.
    """
    events = replace(events, stopped="Stopped; nothing was judged.")
    _check_pair(incumbent, candidate)
    run_on = pick_device(device)
    started = time.monotonic()
    source = open_frames([str(one) for one in sources], on_skip=events.note)
    if older:
        with naming(older=FrameError):  # what is not there is said at once
            open_frames([str(one) for one in older])
    total = None if source.length is None else min(source.length, max_frames)
    old = ScoredModel(load_network(incumbent, run_on), incumbent.manifest.input)
    try:
        new = ScoredModel(load_network(candidate, run_on), candidate.manifest.input)
    except BrokenWeightsError as error:
        sentence = f"The candidate's weights are not numbers: {error}"
        verdict = broken(sentence, 0, time.monotonic() - started)
        return replace(verdict, incumbent=incumbent.hash)
    images = _images(source, max_frames, events, events.note)
    with Work(events=events).phase("judge", total) as done:
        evidence = gather(old, new, images, run_on, events=events, report=done)
    verdict = _decided(evidence, incumbent, started)
    if older:
        past, classes = (
            open_frames([str(one) for one in older], on_skip=events.note),
            incumbent.label_space.classes,
        )
        frames = _images(past, OLDER, events)
        verdict = with_older(verdict, remembered(old, new, frames, run_on, classes, events))
    return verdict


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
