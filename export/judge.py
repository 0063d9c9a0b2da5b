"""Judging of artefacts: label agreement with torch, mIoU, and the floors for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.bench.evaluation import evaluate
from ..runtime.bundle import Bundle
from ..runtime.engines import Engine
from ..runtime.errors import ConfigError, FloorError, arg
from ..runtime.labels.metrics import label_agreement, mapped_through
from ..runtime.words import counted
from .data_splits import EvaluationData, evenly

MIN_AGREEMENT = {"fp32": 99.9, "fp16": 99.8, "bf16": 99.0, "int8": 98.5, "fp8": 97.0}
"""Percent of the pixels that must keep their class, unless a user says otherwise."""


@dataclass(frozen=True)
class Floors:
    """Limits that an artefact must keep: least label agreement, largest drop of mIoU.

    Attributes:
        min_agreement: percent of pixels that must keep their class; None: `MIN_AGREEMENT`.
        max_miou_drop: points of mIoU that it may lose against fp32; None: any.
    """

    min_agreement: float | None = None
    max_miou_drop: float | None = None

    def __post_init__(self) -> None:
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 100:
            raise ConfigError(
                f"{arg('min_agreement')} {self.min_agreement}: is a percentage, 0 to 100."
            )
        if self.max_miou_drop is not None and not self.max_miou_drop >= 0:
            raise ConfigError(
                f"{arg('max_miou_drop')} {self.max_miou_drop}: is a number of points, >= 0."
            )

    def agreement(self, precision: str) -> float:
        """Percent of pixels that an artefact in ``precision`` must keep."""
        return MIN_AGREEMENT[precision] if self.min_agreement is None else self.min_agreement

    def target(self, precision: str) -> float:
        """Percent of pixels at which nothing more is spared: a third of the way up to 100."""
        floor = self.agreement(precision)
        return floor + (100 - floor) / 3


class Judge:
    """Judge of engines by torch's labels and, where there are labels, by fp32's mIoU.

    Args:
        bundle: whose labels the pairs of ``evaluation`` hold, unless it has a label map.
        evaluation: frames, and pairs where there are labels.
        expected: labels of the frames by the model in float32, uint8 (H, W).
        floors: for `check`.
        report: called with images done, images in all and a word on what is measured.
    """

    def __init__(
        self,
        bundle: Bundle,
        evaluation: EvaluationData,
        expected: Sequence[NDArray[np.uint8]],
        floors: Floors,
        report: Callable[[int, int, str], None] = lambda *_: None,
    ) -> None:
        self._bundle, self._evaluation, self._floors = bundle, evaluation, floors
        self._expected = expected
        self._report = report
        self._fp32_miou: float | None = None

    def agreement(self, engine: Engine, frames: int | None = None) -> float:
        """Percent of the pixels that ``engine`` labels as expected.

        Args:
            frames: at most so many, spread over those of the evaluation; None takes all. A few
                are one step of something longer, such as a sweep, which reports itself.
        """
        every = len(self._expected)
        chosen = list(evenly(every, frames or every))
        shares = []
        for done, i in enumerate(chosen):
            if frames is None:
                self._report(done, len(chosen), f"agreement of {engine.precision}")
            labels = engine.segment(self._evaluation.frames[i])
            shares.append(label_agreement(labels, self._expected[i]))
        return sum(shares) / len(shares)  # all frames have one size

    def holds(self, engine: Engine) -> bool:
        """Tell whether ``engine`` reaches the floor of label agreement of its precision."""
        return self.agreement(engine) >= self._floors.agreement(engine.precision)

    def miou(self, engine: Engine) -> float | None:
        """mIoU in percent over all labelled frames; None without labels."""
        if not self._evaluation.pairs:
            return None
        confusion = evaluate(
            engine,
            self._evaluation.pairs,
            self._evaluation.label_map,
            report=lambda done, n: self._report(done, n, f"mIoU of {engine.precision}"),
        )
        return confusion.miou()

    def measure_fp32(self, engine: Engine) -> dict[str, Any]:
        """Details of the float32 artefact; what other precisions lose is counted from here."""
        self._fp32_miou = self.miou(engine)
        if self._fp32_miou is None:
            return {}
        return {"miou": self._fp32_miou, **mapped_through(self._evaluation.label_map)}

    def measure(self, engine: Engine, compared_by: str) -> dict[str, Any]:
        """Details of an artefact in another precision, after `measure_fp32`."""
        details: dict[str, Any] = {
            "parity": {
                "label_agreement": self.agreement(engine),
                "frames": len(self._evaluation.frames),
                "compared_on": self._evaluation.compared_on,
                "compared_with": "torch in fp32",
                "compared_by": compared_by,
            }
        }
        miou = self.miou(engine)
        if miou is not None and self._fp32_miou is not None:
            details |= {"miou": miou, "miou_fp32": self._fp32_miou}
            details |= mapped_through(self._evaluation.label_map)
        return details

    def check(self, name: str, precision: str, details: dict[str, Any]) -> None:
        """Raise `FloorError`, with the number, where ``details`` fall below a floor."""
        found, floor = details["parity"]["label_agreement"], self._floors.agreement(precision)
        what = f"{self._bundle.path}: {name}"
        if not found >= floor:
            raise FloorError(
                f"{what} agrees with its torch model on {found:.3f} % of the pixels of "
                f"{counted(details['parity']['frames'], 'frame')}, less than {floor} %, "
                "and was not written; "
                f"{_more_time(details)}choose another precision, or set {arg('min_agreement')}.",
                metric="label_agreement",
                measured=found,
                limit=floor,
            )
        limit = self._floors.max_miou_drop
        if limit is None:
            return
        drop = details["miou_fp32"] - details["miou"]
        if not drop <= limit:
            raise FloorError(
                f"{what} has {details['miou']:.2f} % mIoU and fp32 {details['miou_fp32']:.2f} %, "
                f"which is {drop:.2f} points less where "
                f"{limit} are allowed, and was not written; choose another precision, or set "
                f"{arg('max_miou_drop')}.",
                metric="miou_drop",
                measured=drop,
                limit=limit,
            )


def _more_time(details: Mapping[str, Any]) -> str:
    """Advice where layers that might be spared were not looked at, as with a short time budget."""
    tuned = details.get("quantisation")
    if tuned is None or len(tuned["sweep"]["layers"]) >= tuned["layers"]:
        return ""
    return f"let the search end (a longer {arg('time_budget_s')}, or none), "
