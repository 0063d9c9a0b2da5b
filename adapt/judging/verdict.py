"""From evidence to a verdict: promote, keep or ask, with a reason for each score.

The thresholds were set on one half of a grid of incumbents and candidates and tested on the other:
docs/results/judging.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...runtime.verdict import Check, Decision, Verdict
from ...runtime.words import percent
from .class_checks import identity_checks
from .evidence import Evidence
from .score_accumulator import Score

# Harm: any of these keeps the incumbent, whatever else speaks for the candidate.
MOST_ENTROPY = 0.7  # of the largest possible; a model that knows nothing has 1
MOST_OF_ONE_CLASS = 0.9  # share of all pixels
MOST_LOST = 0.8  # share of the area of any class
MOST_HISTOGRAM = 0.45  # divergence of the classes' areas from the incumbent's, nats; at most log 2
MOST_DENSITY = 4.2  # nats; 4.6 is the most, where all pixels are predicted alike
LEAST_AGREEMENT = 0.9  # with what the incumbent is sure of
MOST_DIVERGENCE = 0.05  # batch-norm divergence of the candidate above the incumbent's, nats
# Gain: where these frames' statistics change the incumbent's mind about fewer pixels, there is too
# little to be gained for the risk, unless the candidate is better in every way that shows and no
# class loses much. The divergence in nats is of another size in every network, so a small one is
# believed only where few pixels change.
LEAST_SHIFT = 0.06  # share of the pixels
LEAST_DIVERGENCE = 0.075  # batch-norm divergence of the incumbent, nats
LARGE_SHIFT = 0.2  # share of the pixels, from which on the divergence does not count
MOST_LOST_WITHOUT_SHIFT = 0.5  # share of the area of any class
# Where batch norm does not tell the shift, a candidate that is so much more informative had a shift
# to gain from: then it needs no more than where the shift is known to be large. Set on SegFormers:
# docs/results/without-batch-norm.md.
CLEAR_INFORMATION = 0.05  # nats of information, the lower end of the interval of the gain
# An incumbent that has collapsed is steady: beside so much more agreement with the second opinion a
# candidate may be less so.
LARGE_GAIN = 0.3  # share of the pixels
# Checks that speak for a candidate where they pass; where they fail it is no worse for that.
NO_SIGN_OF_HARM = frozenset({"shift", "information", "opinion", "flip", "zoom", "older"})
LEAST_FRAMES = 8  # that differ; a bootstrap over fewer, or over copies of one, knows no doubt


def broken(sentence: str, frames: int, seconds: float) -> Verdict:
    """The verdict on a candidate that gives no numbers, for the reason in ``sentence``."""
    check = Check("finite", None, None, None, None, 1.0, False, sentence)
    return Verdict("keep", sentence, (check,), frames, seconds)


def signs_of_harm(verdict: Verdict) -> list[Check]:
    """The checks that alone keep the incumbent, also of a verdict on too few frames."""
    return [
        check for check in verdict.checks if not check.passed and check.name not in NO_SIGN_OF_HARM
    ]


def decide(evidence: Evidence, classes: Sequence[str], seconds: float = 0.0) -> Verdict:
    """The verdict on a candidate.

    With fewer than `LEAST_FRAMES` frames that differ, a person is asked. Otherwise any sign of harm
    keeps the incumbent. Where the shift is too small for much to be gained, the
    candidate is promoted only if it is more informative and steadier both in a mirror and in a
    smaller view, and no class loses half of its area; so, too, where the network has no batch norm
    to tell the shift by, unless the candidate is more informative by `CLEAR_INFORMATION`, steadier
    in one view and surely less steady in none. Otherwise it is promoted if it is nearer to the
    second opinion, or both more informative and steadier in a mirror, and surely less steady in no
    view (which does not count where it is nearer by `LARGE_GAIN`); kept out if it is neither
    informative nor steady; and a person is asked about all others.

    Args:
        classes: the label space's names.
    """

    def verdict(decision: Decision, sentence: str, checks: Sequence[Check]) -> Verdict:
        return Verdict(decision, sentence, tuple(checks), evidence.frames, seconds)

    if not evidence.finite:
        sentence = (
            "The candidate's outputs are not numbers (NaN or infinite), so its weights are broken."
        )
        return broken(sentence, evidence.frames, seconds)
    scores = evidence.scores
    harm = [*_signs_of_harm(evidence, classes), *identity_checks(evidence, classes)]
    shift = _shift(evidence)
    information, flip, zoom = (
        _gain(name, scores[name]) for name in ("information", "flip", "zoom")
    )
    opinion = _NO_OPINION if evidence.share is None else _gain("opinion", scores["opinion"])
    checks = [*harm, shift, information, opinion, flip, zoom]
    if evidence.frames < LEAST_FRAMES:
        return verdict("ask", too_few(evidence), checks)
    if signs := [check.sentence for check in harm if not check.passed]:
        return verdict("keep", " ".join(signs), checks)
    against = [check for check in (flip, zoom) if check.high is not None and check.high < 0]
    if not shift.passed:
        wanted = (information, flip, zoom)
        clear = evidence.share is None and scores["information"].low >= CLEAR_INFORMATION
        if clear and not against and (steadier_in := [c for c in (flip, zoom) if c.passed]):
            reasons = " ".join(check.sentence for check in (information, *steadier_in))
            return verdict("promote", f"{_NO_STATISTICS} So much was gained: {reasons}", checks)
        lacking = [check.sentence for check in wanted if not check.passed]
        lacking += _lost_too_much(evidence, classes)
        if not lacking:
            reasons = " ".join(check.sentence for check in wanted)
            return verdict(
                "promote", f"{shift.sentence} And yet all speaks for it. {reasons}", checks
            )
        return verdict("keep", " ".join([shift.sentence, *lacking]), checks)
    steadier = opinion if opinion.passed else flip
    if scores["opinion"].low >= LARGE_GAIN:
        against = []
    if (opinion.passed or (information.passed and flip.passed)) and not against:
        speaking = [check for check in (information, steadier) if check.passed]
        return verdict("promote", " ".join(check.sentence for check in speaking), checks)
    if not (information.passed or steadier.passed):
        return verdict("keep", f"Nothing speaks for the candidate. {information.sentence}", checks)
    doubt = next(iter(against), steadier if information.passed else information)
    return verdict("ask", f"The signs are mixed. {doubt.sentence}", checks)


def too_few(evidence: Evidence) -> str:
    """The sentence on fewer than `LEAST_FRAMES` frames that differ."""
    frames = "1 frame is" if evidence.frames == 1 else f"{evidence.frames} frames are"
    copies = ""
    if evidence.copies:
        copies = f" ({evidence.copies} more are nearly the same picture as one of them)"
    return (
        f"{frames} too few to judge on{copies}: give at least {LEAST_FRAMES} that show different "
        "scenes."
    )


def _signs_of_harm(evidence: Evidence, classes: Sequence[str]) -> list[Check]:
    scores = evidence.scores
    entropy, largest, histogram = scores["entropy"], scores["largest"], scores["histogram"]
    density, agreement, divergence = scores["density"], scores["agreement"], scores["divergence"]
    checks = [
        _check(
            "entropy",
            entropy,
            MOST_ENTROPY,
            entropy.candidate <= MOST_ENTROPY,
            f"The candidate's entropy is {entropy.candidate:.2f} of the largest possible",
            "it is certain enough",
            f"above {MOST_ENTROPY:g} a model hardly knows one class from another",
        ),
        _check(
            "largest",
            largest,
            MOST_OF_ONE_CLASS,
            largest.candidate <= MOST_OF_ONE_CLASS,
            f"The candidate gives its largest class {percent(largest.candidate)} of all pixels",
            "no class swallows the others",
            f"above {MOST_OF_ONE_CLASS:.0%} it has collapsed into one class",
        ),
        _check(
            "histogram",
            histogram,
            MOST_HISTOGRAM,
            histogram.candidate <= MOST_HISTOGRAM,
            f"The candidate's shares of the classes are {histogram.candidate:.2f} nats from the "
            "incumbent's",
            "the scene is still much the same",
            f"above {MOST_HISTOGRAM:g} it sees another world",
        ),
        _check(
            "density",
            density,
            MOST_DENSITY,
            density.candidate <= MOST_DENSITY,
            f"The density of the candidate's soft neighbourhoods is {density.candidate:.2f} nats",
            "its predictions differ from pixel to pixel",
            f"above {MOST_DENSITY:g} it predicts nearly the same everywhere",
        ),
    ]
    if not math.isnan(agreement.candidate):
        checks.append(
            _check(
                "agreement",
                agreement,
                LEAST_AGREEMENT,
                agreement.candidate >= LEAST_AGREEMENT,
                f"The candidate agrees on {percent(agreement.candidate)} of the pixels that the "
                "incumbent is sure of",
                "it keeps what was known",
                f"below {LEAST_AGREEMENT:.0%} it has forgotten, or its classes have changed places",
            )
        )
    if not math.isnan(divergence.difference):
        checks.append(
            _check(
                "divergence",
                divergence,
                MOST_DIVERGENCE,
                divergence.difference <= MOST_DIVERGENCE,
                f"To the candidate these frames are {divergence.candidate:.2f} nats from what its "
                f"batch norm expects, to the incumbent {divergence.incumbent:.2f}",
                "they are no stranger to it",
                "it was adapted to something else",
            )
        )
    if evidence.lost:
        worst, lost = max(evidence.lost.items(), key=lambda item: item[1])
        passed = lost <= MOST_LOST
        end = "no class vanishes" if passed else f"above {MOST_LOST:.0%} a class is as good as gone"
        sentence = (
            f"Of all classes {classes[worst]} loses most, {percent(lost)} of its area; {end}."
        )
        checks.append(Check("area_lost", None, lost, None, None, MOST_LOST, passed, sentence))
    return checks


def _shift(evidence: Evidence) -> Check:
    """The share of the pixels on which incumbent and second opinion differ."""
    if evidence.share is None:
        sentence = (
            f"{_NO_STATISTICS} Unless it is more informative by {CLEAR_INFORMATION:g} nats and "
            "steadier in one view, all other signs must be there."
        )
        return Check("shift", None, None, None, None, LEAST_SHIFT, False, sentence)
    agreed = evidence.scores["opinion"].incumbent
    assert agreed is not None
    size, nats = 1 - agreed, evidence.scores["divergence"].incumbent
    assert nats is not None
    least = LEAST_SHIFT if nats >= LEAST_DIVERGENCE else LARGE_SHIFT
    passed = size >= least
    sentence = (
        f"With these frames' statistics ({nats:.2f} nats from its own) the incumbent changes its "
        f"mind about {'' if passed else 'only '}{percent(size)} of the pixels"
    )
    if not passed:
        sentence += f"; below {percent(least)} adapting gains too little for the risk"
    sentence += "."
    return Check("shift", size, None, None, None, least, passed, sentence)


def _lost_too_much(evidence: Evidence, classes: Sequence[str]) -> list[str]:
    """A sentence where a class loses more than a candidate without a known shift may; or none."""
    if not evidence.lost:
        return ["No class of the incumbent is surely seen, so what is lost is unknown."]
    worst, lost = max(evidence.lost.items(), key=lambda item: item[1])
    if lost <= MOST_LOST_WITHOUT_SHIFT:
        return []
    return [
        f"Of all classes {classes[worst]} loses most, {percent(lost)} of its area; "
        f"above {MOST_LOST_WITHOUT_SHIFT:.0%} that is too much where the shift is small or unknown."
    ]


_NO_STATISTICS = (
    "The network keeps no batch-norm statistics, or too few, so neither the size of the shift nor "
    "a second opinion is known."
)
_GAINS = {
    "information": "surer of the pixels while using all classes (nats of information)",
    "opinion": "nearer to the incumbent with batch norm's statistics of these frames",
    "flip": "steadier when a frame is mirrored",
    "zoom": "steadier when a frame is made smaller",
}


_NO_OPINION = Check(
    "opinion",
    *(None, None, None, None, 0.0, False),
    "Without statistics of batch norm there is no second opinion.",
)


def _gain(name: str, score: Score) -> Check:
    """Passed where the whole interval of the difference is above 0."""
    passed = score.low > 0
    if math.isnan(score.candidate):
        sentence = "The networks take images of their input size alone: nothing is said of others."
        return Check(name, None, math.nan, None, None, 0.0, False, sentence)
    sentence = (
        f"The candidate is {'' if passed else 'not '}{_GAINS[name]}: {score.incumbent:.3f} to "
        f"{score.candidate:.3f}, difference {score.low:+.3f} to {score.high:+.3f}."
    )
    figures = score.incumbent, score.candidate, score.low, score.high
    return Check(name, *figures, 0.0, passed, sentence)


def _check(
    name: str, score: Score, threshold: float, passed: bool, fact: str, good: str, bad: str
) -> Check:
    sentence = f"{fact}; {good if passed else bad}."
    figures = score.incumbent, score.candidate, score.low, score.high
    return Check(name, *figures, threshold, passed, sentence)
