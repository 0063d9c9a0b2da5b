"""Signs that a candidate's classes or pixels are no longer what they were, each a check.

Information, flip and zoom do not change when two classes trade names, or when all labels move; the
pooled agreement is mostly road. So each class is looked at by itself, against the reference that
the candidate is most like (see `References`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...runtime.verdict import Check
from ...runtime.words import percent
from ..scoring.class_pairs import LEAST_VULNERABLE_AREA, ClassPairs, closest, is_vulnerable
from ..scoring.displacement import Displacement
from ..scoring.references import MIXED, OWN, WORN
from .evidence import Evidence

LEAST_KEPT = 0.2  # share of a class's pixels
LEAST_VULNERABLE_KEPT = 0.25  # the same of people and what they ride
MOST_VULNERABLE_LOST = 0.8  # share of the area, against what incumbent and second opinion both see
MOST_GROWTH = 4.0  # times the reference's area, of people and what they ride
GROWTH_AREA = 0.002  # share of all pixels that the reference's area is taken as at least
# Two tiny classes that fit each other as well as themselves differ by a hundredth; an exchange of
# names of two that the reference tells apart gains most of their IoU.
MOST_EXCHANGED = 0.05  # IoU that an exchange of names gains, per class
LEAST_DISPLACED = 0.002  # share of all pixels that agree more when moved back

_NAMES = {
    OWN: "the incumbent",
    MIXED: "the second opinion",
    WORN: "the incumbent with the candidate's statistics",
}


def identity_checks(evidence: Evidence, classes: Sequence[str]) -> list[Check]:
    """Check that each class is still itself, keeps its pixels, and lies where it lay."""
    if not evidence.pairs:
        return []
    name = closest(evidence.pairs)
    pairs, who = evidence.pairs[name], _NAMES[name]
    chosen = pairs.looked_at(classes)
    checks = [_exchanged(pairs, chosen, classes)]
    vulnerable = [c for c in chosen if is_vulnerable(classes[c])]
    others = [c for c in chosen if not is_vulnerable(classes[c])]  # the rest has a stricter bound
    checks += _kept("kept", pairs, others, classes, LEAST_KEPT, who)
    checks += _kept("kept_vulnerable", pairs, vulnerable, classes, LEAST_VULNERABLE_KEPT, who)
    checks += _vanished(evidence, classes)
    checks += _grown(pairs, classes, who)
    if checks[0].passed:  # where classes have changed places, moved labels may fit by chance
        checks.append(_displaced(evidence.displaced.get(name), who))
    return checks


def _exchanged(pairs: ClassPairs, chosen: Sequence[int], classes: Sequence[str]) -> Check:
    gain, cycle = pairs.exchanged(chosen)
    passed = gain <= MOST_EXCHANGED
    sentence = "Every class of the candidate is what it was."
    if cycle:
        calls = ", ".join(
            f"{classes[new]} what was {classes[old]}"
            for old, new in zip(cycle, cycle[1:] + cycle[:1], strict=True)
        )
        sentence = (
            f"Classes have changed places: the candidate calls {calls}."
            if not passed
            else f"No class has changed its name; nearest to it: {calls}, by an IoU of {gain:.2f}."
        )
    return Check("exchanged", None, gain, None, None, MOST_EXCHANGED, passed, sentence)


def _kept(
    name: str,
    pairs: ClassPairs,
    held: Sequence[int],
    classes: Sequence[str],
    least: float,
    who: str,
) -> list[Check]:
    held = [c for c in held if not math.isnan(pairs.kept(c))]
    if not held:
        return []
    worst = min(held, key=pairs.kept)
    kept, passed = pairs.kept(worst), pairs.kept(worst) >= least
    sentence = f"Of what {who} calls {classes[worst]} the candidate keeps {percent(kept)}; "
    if passed:
        sentence += "of every other class more."
    else:
        renamed = classes[pairs.renamed(worst)]
        sentence += f"below {percent(least)} it has lost it: it calls {renamed} what was "
        sentence += f"{classes[worst]}."
    return [Check(name, None, kept, None, None, least, passed, sentence)]


def _vanished(evidence: Evidence, classes: Sequence[str]) -> list[Check]:
    """People may not vanish by the candidate's statistics either, which its wearer shares."""
    own, mixed = evidence.pairs[OWN].counts, evidence.pairs[MIXED].counts
    before = np.minimum(own.sum(axis=1), mixed.sum(axis=1)) / max(own.sum(), 1)
    after = own.sum(axis=0) / max(own.sum(), 1)
    seen = [
        c
        for c, name in enumerate(classes)
        if is_vulnerable(name) and before[c] >= LEAST_VULNERABLE_AREA
    ]
    if not seen:
        return []
    worst = min(seen, key=lambda c: after[c] / before[c])
    lost = max(0.0, 1 - float(after[worst] / before[worst]))
    passed = lost <= MOST_VULNERABLE_LOST
    sentence = (
        f"Of people and what they ride {classes[worst]} loses most, {percent(lost)} of its area; "
        f"{'none vanishes' if passed else f'above {percent(MOST_VULNERABLE_LOST)} it is missed'}."
    )
    return [
        Check("vulnerable_lost", None, lost, None, None, MOST_VULNERABLE_LOST, passed, sentence)
    ]


def _grown(pairs: ClassPairs, classes: Sequence[str], who: str) -> list[Check]:
    vulnerable = [c for c, name in enumerate(classes) if is_vulnerable(name)]
    if not vulnerable:
        return []
    growth = {c: pairs.growth(c, GROWTH_AREA) for c in vulnerable}
    most = max(growth, key=lambda c: growth[c])
    passed = growth[most] <= MOST_GROWTH
    sentence = (
        f"The candidate sees {growth[most]:.1f} times as much {classes[most]} as {who}; "
        f"{'no more than may be' if passed else f'above {MOST_GROWTH:g} it invents it'}."
    )
    return [
        Check("grown_vulnerable", None, growth[most], None, None, MOST_GROWTH, passed, sentence)
    ]


def _displaced(displaced: Displacement | None, who: str) -> Check:
    gain = displaced.gain if displaced else 0.0
    if displaced is None or gain <= LEAST_DISPLACED:
        sentence = f"The candidate's labels fit those of {who} best where they lie."
        return Check("displaced", None, gain, None, None, LEAST_DISPLACED, True, sentence)
    pixels = "pixel" if displaced.pixels == 1 else "pixels"
    sentence = (
        f"The candidate's labels lie {displaced.pixels} {pixels} too {displaced.direction}: moved "
        f"back, {displaced.gain:.1%} more of all pixels agree with {who}."
    )
    return Check("displaced", None, gain, displaced.low, None, LEAST_DISPLACED, False, sentence)
