"""Forgetting of conditions that the incumbent knows, measured on older frames.

A verdict holds for conditions like those of its frames; a model that adapted to the night may have
lost the day. On frames of such conditions the incumbent is the best that there is to hold a
candidate against: what it is sure of there should stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from ...runtime.errors import FrameError
from ...runtime.verdict import Check, Verdict
from ...runtime.words import percent
from ..run.events import QUIET, Events
from ..scoring.class_pairs import LEAST_AREA, pairs_of
from ..scoring.resampling import BootstrapSums, BootstrapWeights, interval
from ..scoring.scores import CONFIDENT
from ..scoring.views import Image, ScoredModel, Viewer

LEAST_REMEMBERED = 0.9  # share of the pixels that the incumbent is sure of
OLDER = 16  # frames, at most


@torch.no_grad()
def remembered(
    incumbent: ScoredModel,
    candidate: ScoredModel,
    frames: Iterable[Image],
    device: torch.device,
    classes: tuple[str, ...],
    events: Events = QUIET,
) -> Check:
    """The share of what the incumbent is sure of, on older frames, that the candidate says too.

    Passed where it is at least `LEAST_REMEMBERED`; the sentence names the class that is lost most.

    Args:
        frames: uint8 RGB (H, W, 3), any size, of conditions that the incumbent serves.
        classes: the label space's names.
        events: asked before every frame whether to stop.

    Raises:
        FrameError: there is no frame.
        RunInterrupted: a signal came.
    """
    old, new = Viewer(incumbent, device), Viewer(candidate, device)
    weights, sums, count = BootstrapWeights(), BootstrapSums(), 0
    pairs = np.zeros((len(classes), len(classes)))
    for frame in frames:
        events.stop_if_requested()
        p = old.probabilities(old.images([old.fitted(frame)]))
        grid = p.shape[2], p.shape[3]
        said = new.probabilities(new.images([new.fitted(frame)]), grid).argmax(dim=1)
        known, sure = p.argmax(dim=1), p.amax(dim=1) >= CONFIDENT
        kept = sure & (known == said)
        sums.add(
            weights.draw(1), sure=sure.double().sum(dim=(1, 2)), kept=kept.double().sum(dim=(1, 2))
        )
        pairs += pairs_of(known[sure][None, None], said[sure][None, None], len(classes))
        count += 1
    if not count:
        raise FrameError("None of the older frames could be read.")
    shares = sums["kept"] / sums["sure"].clamp(min=1)
    share, passed = float(shares[0]), float(shares[0]) >= LEAST_REMEMBERED
    area = pairs.sum(axis=1)
    seen = [c for c in range(len(classes)) if area[c] >= LEAST_AREA * max(area.sum(), 1)]
    sentence = (
        f"On {count} older frames the candidate says the same as the incumbent on "
        f"{percent(share)} of the pixels that the incumbent is sure of"
    )
    if seen:
        worst = min(seen, key=lambda c: pairs[c, c] / area[c])
        of = percent(pairs[worst, worst] / area[worst])
        sentence += f", of all classes least on {classes[worst]}, {of}"
    sentence += "." if passed else f"; below {percent(LEAST_REMEMBERED)} it has forgotten them."
    return Check("older", None, share, *interval(shares), LEAST_REMEMBERED, passed, sentence)


def with_older(verdict: Verdict, check: Check) -> Verdict:
    """``verdict`` with what older frames say: where they are forgotten, a person is asked."""
    checks = (*verdict.checks, check)
    if verdict.decision != "promote" or check.passed:
        return replace(verdict, checks=checks)
    sentence = f"It is better on these frames, but has forgotten others. {check.sentence}"
    return replace(verdict, decision="ask", sentence=sentence, checks=checks)
