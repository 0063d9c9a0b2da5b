"""Floors: what is advised where an artefact falls below one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from roadshift.export.judge import Floors, Judge
from roadshift.runtime.errors import FloorError

ROW = {"layer": "conv", "label_agreement": 99.0}


@pytest.mark.parametrize(
    ("quantised", "more_time"),
    [
        ({}, False),
        ({"quantisation": {"layers": 1, "sweep": {"frames": 1, "layers": [ROW]}}}, False),
        ({"quantisation": {"layers": 2, "sweep": {"frames": 1, "layers": [ROW]}}}, True),
        ({"quantisation": {"layers": 2, "sweep": {"frames": 0, "layers": []}}}, True),
    ],
)
def test_where_a_search_was_cut_short_more_time_is_advised(
    quantised: dict[str, Any], more_time: bool
) -> None:
    bundle: Any = SimpleNamespace(path="bundle")
    evaluation: Any = None
    judge = Judge(bundle, evaluation, [], Floors())
    details = {"parity": {"label_agreement": 97.4, "frames": 4}, **quantised}
    with pytest.raises(FloorError, match=r"less than 98\.5 %, and was not written; ") as caught:
        judge.check("model-int8.onnx", "int8", details)
    advice = "let the search end (a longer time_budget_s, or none), choose another precision, or"
    assert (advice in str(caught.value)) == more_time
