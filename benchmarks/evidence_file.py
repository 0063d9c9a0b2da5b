"""Evidence in JSON files, so that thresholds can be tried without asking the models again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from roadshift.adapt.judging.evidence import Evidence
from roadshift.adapt.judging.score_accumulator import Score
from roadshift.adapt.scoring.class_pairs import ClassPairs
from roadshift.adapt.scoring.displacement import Displacement


def to_json(evidence: Evidence) -> Any:
    """Plain values."""
    return json.loads(json.dumps(asdict(evidence), default=lambda array: array.tolist()))


def from_json(values: Mapping[str, Any]) -> Evidence:
    """Restore the evidence that `to_json` was given."""
    return Evidence(
        values["frames"],
        values["finite"],
        {name: Score(**score) for name, score in values["scores"].items()},
        {int(index): share for index, share in values["lost"].items()},
        values["copies"],
        {name: ClassPairs(np.array(pair["counts"])) for name, pair in values["pairs"].items()},
        {name: Displacement(**moved) for name, moved in values["displaced"].items()},
        values["share"],
    )
