"""Both models over the same frames, once: the scores that a verdict is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from ...runtime.errors import FrameError
from ...runtime.spacing import evenly_spaced
from ..run.events import QUIET, Events
from ..scoring.class_pairs import ClassPairs
from ..scoring.displacement import Displacement, moves
from ..scoring.near_duplicates import DistinctFrames
from ..scoring.references import FRAMES, MIXED, OWN, References
from ..scoring.views import Image, ScoredModel, Viewer, ViewPredictions
from .score_accumulator import Score, ScoreAccumulator

T = TypeVar("T")
BATCH = 4  # frames that batch norm's own statistics are taken over


@dataclass(frozen=True)
class Evidence:
    """Evidence on an incumbent and a candidate, gathered without labels.

    Attributes:
        frames: how many, that are nearly the same picture counted once and looked at once.
        finite: whether all of the candidate's probabilities are numbers; if not, nothing else is.
        scores: by name, see `gather`.
        copies: frames left out, for they are nearly the same picture as one before.
        pairs: which class of a reference the candidate calls what, by the reference's name; empty
            of a broken one.
        displaced: where the candidate's labels fit a reference better than where they lie, by its
            name.
        share: of these frames' statistics in the second opinion; None without batch norm, where it
            is the incumbent's own answer.
        lost: share of its area that each class lost, of those that all references see, by class
            index.
    """

    frames: int
    finite: bool
    scores: dict[str, Score]
    lost: dict[int, float]
    copies: int = 0
    pairs: dict[str, ClassPairs] = field(default_factory=dict)
    displaced: dict[str, Displacement] = field(default_factory=dict)
    share: float | None = None


@torch.no_grad()
def gather(
    incumbent: ScoredModel,
    candidate: ScoredModel,
    frames: Iterable[Image],
    device: torch.device,
    *,
    events: Events = QUIET,
    due: Callable[[], bool] = lambda: False,
    report: Callable[[int], None] = lambda _: None,
    seed: int = 0,
) -> Evidence:
    """Scores of both models on the same frames and pixels.

    The frames are kept in memory at the size of the models' inputs, uint8, for they are passed over
    twice: for the second opinion's statistics, then by both models.

    Of both models: ``density``, ``information``, ``entropy``, ``flip``, ``zoom``, ``divergence``
    (of batch norm) and ``opinion``: the share of pixels on which the model agrees with the second
    opinion, see `References`. Of the pair:
    ``histogram``, ``agreement`` (on pixels of which incumbent and second opinion are confident and
    of one mind), ``largest`` (the candidate's largest class, share of all pixels).

    Args:
        frames: uint8 RGB (H, W, 3), any size.
        events: asked before every batch whether to stop.
        due: whether the time is over; asked after every batch.
        report: called with the number of frames judged so far.

    Raises:
        FrameError: there is no frame.
        RunInterrupted: a signal came.
    """
    viewers = Viewer(incumbent, device), Viewer(candidate, device)
    distinct, seen, copies = DistinctFrames(), list[tuple[Image, Image]](), 0
    for frame in frames:
        if distinct.is_new(frame):
            seen.append((viewers[0].fitted(frame), viewers[1].fitted(frame)))
        else:
            copies += 1
    if not seen:
        raise FrameError("No frame could be read to judge the models on.")
    references = References(incumbent.network, candidate.network)
    ours = [mine for mine, _ in seen]
    few = [viewers[0].images([ours[i]]) for i in evenly_spaced(len(ours), FRAMES)]
    references.look((viewers[0].images(b) for b in in_batches_of(ours, BATCH)), few, events, due)
    gathered, zoom = ScoreAccumulator(incumbent.network.num_classes, seed), True
    for batch in in_batches_of(seen, BATCH):
        events.stop_if_requested()
        inputs = (
            viewers[0].images([mine for mine, _ in batch]),
            viewers[1].images([its for _, its in batch]),
        )
        if not gathered.frames:
            pairs = zip(viewers, inputs, strict=True)
            zoom = all(viewer.takes_zoom(images) for viewer, images in pairs)
        old = viewers[0].say(inputs[0], zoom=zoom)
        grid = old.plain.shape[1], old.plain.shape[2]
        new = viewers[1].say(inputs[1], grid, zoom=zoom)
        size = inputs[0].shape[2], inputs[0].shape[3]
        gathered.add(old, new, referred(viewers[0], references, inputs, old), moves(grid, size))
        if not new.finite:
            return Evidence(gathered.frames, False, {}, {})
        report(gathered.frames)
        if due():
            break
    divergences = [viewer.divergence() for viewer in viewers]
    return Evidence(
        gathered.frames,
        True,
        gathered.scores(divergences),
        gathered.lost(),
        copies,
        gathered.pairs(),
        gathered.displaced(),
        references.share,
    )


def referred(
    viewer: Viewer, references: References, inputs: tuple[Tensor, Tensor], old: ViewPredictions
) -> dict[str, Tensor]:
    """Probabilities of every reference, (B, K, h, w), at the grid of ``old``, the incumbent's own.

    Args:
        inputs: the incumbent's and the candidate's; who wears the candidate's statistics is fed
            what they are of.
    """
    grid = old.plain.shape[1], old.plain.shape[2]
    found = {OWN: old.p}
    for name in references.names:
        with references.wearing(name):
            images = inputs[0] if name == MIXED else inputs[1]
            found[name] = viewer.probabilities(images, grid)
    found.setdefault(MIXED, old.p)  # without batch norm
    return found


def in_batches_of(frames: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size``, and a last one of what is left."""
    iterator = iter(frames)
    while batch := list(islice(iterator, size)):
        yield batch
