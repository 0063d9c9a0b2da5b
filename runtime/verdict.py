"""Verdict of a gate on an adapted model: promote it, keep the one in the car, or ask a person."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from .errors import RefusedError, RoadshiftError, UndecidedError

Decision = Literal["promote", "keep", "ask"]


@dataclass(frozen=True)
class Check:
    """One score against its threshold.

    Attributes:
        name: of the score.
        incumbent, candidate: what both models score; the incumbent's is None for a score of the
            pair.
        low, high: 95 % interval of what is compared with the threshold.
        threshold: what it is compared with.
        passed: whether it speaks for the candidate.
        sentence: what it says, for a person.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    incumbent: float | None
    candidate: float | None
    low: float | None
    high: float | None
    threshold: float
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """Decision about a candidate, and the reasons.

    Attributes:
        decision: promote the candidate, keep the incumbent, or ask a person.
        sentence: the reason that decided.
        checks: every score that was looked at.
        frames: that both models were judged on.
        seconds: that judging took.
        incumbent: the hash of its bundle.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    decision: Decision
    sentence: str
    checks: tuple[Check, ...]
    frames: int
    seconds: float = 0.0
    incumbent: str | None = None

    def record(self) -> dict[str, Any]:
        """JSON values of the verdict, for a manifest or ``--json``."""
        return asdict(self)

    def error(self, candidate: Path) -> RoadshiftError | None:
        """Error that ends a command whose candidate is not promoted; None where it is."""
        if self.decision == "keep":
            return RefusedError(
                f"{candidate}: is refused by its gate, keep the incumbent: {self.sentence}"
            )
        if self.decision == "ask":
            return UndecidedError(
                f"{candidate}: its gate cannot tell whether it is better, look at it before you "
                f"use it: {self.sentence}"
            )
        return None

    @property
    def warning(self) -> str | None:
        """Sentence for whoever uses a candidate that was not promoted."""
        if self.decision == "keep":
            return f"this model was refused by its own gate: {self.sentence}"
        if self.decision == "ask":
            return f"this model's own gate could not decide on it: {self.sentence}"
        return None
