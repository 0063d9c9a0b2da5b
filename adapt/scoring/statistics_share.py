"""The share of the target's batch-norm statistics, found on the frames without labels.

A network that has seen much of the world has good statistics of its own, and some frames of one
street are a worse estimate of all but their light; a network trained on one town has not. So the
share a of `mixed_statistics` is no constant: for a few values the network is asked about the same
frames, and about their mirror images, and

    score(a) = (H(mean p) - mean H(p)) * mean IoU over classes of labels and mirrored labels

says how informative and how steady it is. The share is the mean of the values, each weighing
exp((score(a) / max score - 1) / T), since scores that hardly differ say nothing of which is better.
What that gives with networks and roads of others: docs/results/real.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...runtime.spacing import evenly_spaced
from ...runtime.words import counted
from ..data.context import Context
from ..losses.common import at_least_float32
from ..networks import SegmentationNetwork
from ..networks.mixed_statistics import Statistics, mix_statistics
from ..networks.modes import evaluating
from .near_duplicates import DistinctFrames
from .scores import consistency, information_maximisation
from .views import overlaps

SHARES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
FRAMES = 16  # of the target set, evenly spaced
PASSES = 2  # of a frame and share
TEMPERATURE = 0.03
ALL = 0.9  # a larger share is all: the network's own statistics are worth next to nothing
PRIOR = 2  # frames that the network's own statistics are worth, where there are few to look at


@dataclass(frozen=True)
class StatisticsShare:
    """The weight of the target's statistics, 0 to 1, and why it is that, in words."""

    value: float
    why: str


@torch.no_grad()
def find_share(
    network: SegmentationNetwork,
    source: Statistics,
    target: Statistics,
    context: Context,
    seen: int,
) -> StatisticsShare:
    """Find how much of the target's statistics to take; the network's own are left as they were.

    At most N / (N + 2) for N frames that differ (Schneider et al., NeurIPS 2020), if fewer than 16
    of those looked at do, or the statistics are of fewer: a road of two frames, a standing car, or
    no time for more says little of any other.

    Args:
        source, target: see `running_statistics` and `target_statistics`.
        seen: frames that the target's statistics are of.

    Raises:
        RunInterrupted: a signal came.
    """
    frames, deadline = context.frames, context.work.deadline
    chosen = evenly_spaced(len(frames), min(FRAMES, seen))
    distinct = DistinctFrames()
    different = sum(distinct.is_new(frames.image(i)) for i in chosen)
    if deadline.bounded:
        fit = int(deadline.left_s / max(deadline.forward_s * PASSES * len(SHARES), 1e-9))
        chosen = evenly_spaced(len(frames), min(len(chosen), fit)) if fit else []
    if not chosen:
        return capped(0.5, different, "the time budget leaves no time to find the share: half")
    images = [context.normalise(_frame(context, i)) for i in chosen]
    scores = []
    try:
        with evaluating(network):
            for share in context.work.over(
                SHARES,
                "finding the share of the frames' statistics",
                unit="shares",
                in_order=True,
            ):
                mix_statistics(source, target, share)
                scores.append(score(network, images))
    finally:
        mix_statistics(source, target, 0.0)
    if len(scores) < len(SHARES):
        return capped(0.5, different, "the time budget ended before a share was found: half")
    value = weighted_mean(SHARES, scores)
    best, own = max(scores), scores[0]
    return capped(
        value, different, f"the most informative and steady: {best:.3f}, with its own {own:.3f}"
    )


def score(network: SegmentationNetwork, images: Sequence[Tensor]) -> float:
    """Information in nats times consistency under mirroring, see above; not below 0.

    Args:
        network: in evaluation mode.
        images: normalised, each (1, 3, H, W).
    """
    p_sum: Tensor | None = None
    both: Tensor | float = 0.0
    either: Tensor | float = 0.0
    entropy = pixels = 0.0
    for image in images:
        logits = at_least_float32(network.forward(image).logits)
        mirrored = network.forward(image.flip(3)).logits.flip(3)
        p = logits.softmax(dim=1)
        entropy -= float(torch.special.xlogy(p, p).sum())
        pixels += p[:, 0].numel()
        part = p.sum(dim=(0, 2, 3)).double()
        p_sum = part if p_sum is None else p_sum + part
        same, union = overlaps(logits.argmax(dim=1), mirrored.argmax(dim=1), logits.shape[1])
        both, either = both + same, either + union
    assert p_sum is not None
    assert isinstance(both, Tensor)
    assert isinstance(either, Tensor)
    information = float(information_maximisation(p_sum / pixels, entropy / pixels))
    steadiness = float(consistency(both, either).mean())
    found = information * steadiness
    return max(0.0, found) if math.isfinite(found) else 0.0


def weighted_mean(shares: Sequence[float], scores: Sequence[float]) -> float:
    """The mean of ``shares`` by their scores; 0, the source's own, where none has any.

    Equal scores, as of a network that always says the same, say nothing either way: half.
    """
    best = max(scores)
    if best <= 0:
        return 0.0
    weights = [math.exp((s / best - 1) / TEMPERATURE) for s in scores]
    return sum(a * w for a, w in zip(shares, weights, strict=True)) / sum(weights)


def capped(value: float, different: int, why: str) -> StatisticsShare:
    """``value``, rounded to hundredths, with what few different frames allow at most."""
    most = 1.0 if different >= FRAMES else different / (different + PRIOR)
    if value > most:
        few = f"{counted(different, 'different frame')} allow{'s' if different == 1 else ''}"
        return StatisticsShare(round(most, 2), f"{why}; {few} no more")
    return StatisticsShare(1.0 if value >= ALL else round(value, 2), why)


def _frame(context: Context, index: int) -> Tensor:
    image = torch.from_numpy(context.frames.image(index).copy())[None]
    return image.to(context.device)
