"""Choice among candidates of one incumbent, without labels, by what the gate measured of each.

Density of soft neighbourhoods chooses settings in the papers' experiments (IAPC and others, after
Saito et al., ICCV 2021), and rewards collapse. So it is one score of three here, the other two fall
where classes are lost, and no candidate wins that a gate would keep out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from ...runtime.verdict import Decision, Verdict
from .verdict import signs_of_harm

SCORES = ("density", "information", "opinion")  # of a candidate; of each more is better


@dataclass(frozen=True)
class Standing:
    """The standing of a candidate among the others.

    Attributes:
        decision: of its gate; None where the run failed.
        scores: each of `SCORES`, None where it was not measured.
        rank: mean of its ranks by each score among those that may win, 1 for the best; None for one
            that may not win.
        why: the reason why it may not win; empty for one that may.
    """

    decision: Decision | None
    scores: dict[str, float | None]
    rank: float | None
    why: str

    def record(self) -> dict[str, Any]:
        """JSON values of the standing."""
        return asdict(self)


def standings(verdicts: Sequence[Verdict | str]) -> list[Standing]:
    """The standing of each candidate.

    One may not win whose gate keeps the incumbent, that shows a sign of harm (which a verdict on
    few frames asks a person about), or of which a score is missing.

    Args:
        verdicts: the gate's on each candidate, or the reason why there is none.
    """
    scores = [_scores(verdict) for verdict in verdicts]
    reasons = [_reason(*pair) for pair in zip(verdicts, scores, strict=True)]
    able = [i for i, reason in enumerate(reasons) if not reason]
    ranks = {i: fmean(_rank(i, able, scores, name) for name in SCORES) for i in able}
    return [
        Standing(
            None if isinstance(verdict, str) else verdict.decision,
            scores[i],
            ranks.get(i),
            reasons[i],
        )
        for i, verdict in enumerate(verdicts)
    ]


def winner(found: Sequence[Standing]) -> int | None:
    """The index of the best candidate: promoted before asked about, then by rank, then the first.

    None where no candidate may win.
    """
    able = [
        (standing.decision != "promote", standing.rank, i)
        for i, standing in enumerate(found)
        if standing.rank is not None
    ]
    return min(able)[2] if able else None


def _scores(verdict: Verdict | str) -> dict[str, float | None]:
    checks = () if isinstance(verdict, str) else verdict.checks
    known = {check.name: check.candidate for check in checks}
    return {name: known.get(name) for name in SCORES}


def _reason(verdict: Verdict | str, scores: dict[str, float | None]) -> str:
    if isinstance(verdict, str):
        return verdict
    if verdict.decision == "keep":
        return verdict.sentence
    harm = signs_of_harm(verdict)
    if harm:
        return " ".join(check.sentence for check in harm)
    return verdict.sentence if None in scores.values() else ""


def _rank(
    i: int, able: Sequence[int], scores: Sequence[dict[str, float | None]], name: str
) -> float:
    """The rank of candidate ``i`` by a score, 1 for the most; equal ones share the mean rank."""
    values = [value for j in able if (value := scores[j][name]) is not None]
    own = scores[i][name]
    assert own is not None
    better, equal = sum(value > own for value in values), values.count(own)
    return better + (equal + 1) / 2
