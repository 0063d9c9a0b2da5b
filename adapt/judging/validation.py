"""Validation without labels while a run learns: one look at a few frames, and its alarms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...runtime.words import percent
from ..scoring.resampling import BootstrapWeights, interval
from ..scoring.scores import CONFIDENT, area_lost, information_maximisation, normalised_entropy
from ..scoring.views import area

LEAST_AREA = 0.005  # share of all pixels: smaller classes come and go with a few frames
MOST_LOST = 0.8  # of a class's area: to shrink may be right, this is deletion
LEAST_INFORMATION = 0.8  # of the reference's: collapse to a few classes takes it away
LEAST_AGREEMENT = 0.8  # on pixels that the reference is sure of: most of those are right


class PredictionSummary(NamedTuple):
    """Answers of a model about F frames; float64 on the CPU but for labels and confident pixels."""

    p: Tensor  # mean probabilities, (F, K)
    entropy: Tensor  # mean of the pixels, 0 to 1, (F,)
    area: Tensor  # share of the pixels, (F, K)
    labels: Tensor  # (F, h, w)
    confident: Tensor  # bool (F, h, w)

    @classmethod
    def of(cls, logits: Tensor) -> PredictionSummary:
        """Summarise float logits, (F, K, h, w)."""
        p = logits.softmax(dim=1)
        labels = p.argmax(dim=1)
        return cls(
            p.mean(dim=(2, 3)).double().cpu(),
            normalised_entropy(p).mean(dim=(1, 2)).double().cpu(),
            area(labels, p.shape[1]).cpu(),
            labels,
            p.amax(dim=1) >= CONFIDENT,
        )


@dataclass(frozen=True)
class Look:
    """One look at a model on the frames set aside, after a step.

    Attributes:
        step: steps done; 0 is the model after the warm start, which the others are compared with.
        scores: ``information`` and ``diversity`` (nats), ``entropy`` (0 to 1) and, if the reference
            is confident of any pixel, ``agreement`` there (0 to 1); empty where probabilities are
            not numbers.
        lost: share of its area that each class lost, by name; classes of at least `LEAST_AREA`.
        alarms: sentences, none if all is well.
    """

    step: int
    scores: Mapping[str, float] = field(default_factory=dict)
    lost: Mapping[str, float] = field(default_factory=dict)
    alarms: Sequence[str] = field(default_factory=list)

    @property
    def information(self) -> float:
        """Score that looks are ranked by; lowest where probabilities are not numbers."""
        return self.scores.get("information", -math.inf)

    def record(self) -> dict[str, Any]:
        """JSON values of the look, for a manifest."""
        return {
            "step": self.step,
            "scores": {name: round(value, 4) for name, value in self.scores.items()},
            "lost": {name: round(share, 4) for name, share in self.lost.items()},
            "alarms": list(self.alarms),
        }


def judged(
    step: int, seen: PredictionSummary, reference: PredictionSummary, names: Sequence[str]
) -> Look:
    """The look that ``seen`` makes beside ``reference``, on the same frames.

    Args:
        names: of the classes.
    """
    if not bool(seen.p.isfinite().all()):
        return Look(step, alarms=["the model's probabilities are not numbers"])
    knows, diversity = information(seen.p, seen.entropy)
    scores = {
        "information": float(knows),
        "diversity": float(diversity),
        "entropy": float(seen.entropy.mean()),
    }
    if bool(reference.confident.any()):
        same = (seen.labels == reference.labels)[reference.confident]
        scores["agreement"] = float(same.double().mean())
    before, after = reference.area.mean(dim=0), seen.area.mean(dim=0)
    shares = area_lost(before, after)
    lost = {name: float(shares[i]) for i, name in enumerate(names) if before[i] >= LEAST_AREA}
    least = LEAST_INFORMATION * float(information(reference.p, reference.entropy)[0])
    return Look(step, scores, lost, list(_alarms(scores, lost, least)))


def _alarms(scores: Mapping[str, float], lost: Mapping[str, float], least: float) -> Iterator[str]:
    for name, share in lost.items():
        if share >= MOST_LOST:
            yield f"{name} lost {percent(share)} of its area"
    if scores["information"] < least:
        yield f"information is {scores['information']:.2f} nats, below {least:.2f}"
    if scores.get("agreement", 1.0) < LEAST_AGREEMENT:
        yield f"{percent(scores['agreement'])} agreement on pixels that the start was sure of"


def information(p: Tensor, entropy: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`information_maximisation` over frames, and its first term, the diversity: both in nats.

    Args:
        p, entropy: as in `PredictionSummary`.
        weights: of the frames, (R, F); None: one each.

    Returns:
        Two of (R,); of scalars without weights.
    """
    if weights is None:
        weights = torch.ones(len(p), dtype=p.dtype)
    total = weights.sum(dim=-1).clamp(min=1)
    mean_p = weights @ p / total[..., None]
    mean_entropy = weights @ entropy / total * math.log(p.shape[1])
    return (information_maximisation(mean_p, mean_entropy), information_maximisation(mean_p, 0.0))


def clearly_better(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Tell whether ``one`` has more information and is more diverse, both in 95 % of a bootstrap.

    Less information alone is no harm: a model that distils soft labels becomes less sure, and
    better. In collapse the diversity goes as well.

    Args:
        one, other: ``p`` and ``entropy`` of the same frames, as in `PredictionSummary`.
    """
    weights = BootstrapWeights().draw(len(one["p"]))
    ours, theirs = information(**one, weights=weights), information(**other, weights=weights)
    return all(interval(a - b)[0] > 0 for a, b in zip(ours, theirs, strict=True))
