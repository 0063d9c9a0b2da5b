"""The sweep's order, how many layers are spared, and how long it may take."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from roadshift.export.judge import Floors, Judge
from roadshift.export.sensitivity import Sensitivity, spare, sweep, sweep_frames

COST = {
    "first": 0.5,
    "second": 3.0,
    "third": 0.1,
    "fourth": 1.0,
    **{f"l{i}": 0.01 for i in range(12)},
}


def rows() -> list[Sensitivity]:
    return sweep(list(COST), lambda layer: 100 - COST[layer])


def left(spared: Collection[str]) -> float:
    return 100 - sum(cost for layer, cost in COST.items() if layer not in spared)


def test_the_most_sensitive_layer_comes_first_and_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    found = sweep(list(COST), lambda layer: 100 - COST[layer], lambda *at: told.append(at[:2]))
    assert [row.layer for row in found[:4]] == ["second", "fourth", "first", "third"]
    assert [row.layer for row in found[4:]] == [f"l{i}" for i in range(12)]
    assert found[0].label_agreement == 97
    assert told == [(i, 16) for i in range(16)]


def test_a_step_of_a_sweep_leaves_progress_to_the_sweep() -> None:
    told: list[str] = []
    labels = np.zeros((2, 3), np.uint8)
    data: Any = SimpleNamespace(frames=[labels] * 3, pairs=[])
    engine: Any = SimpleNamespace(precision="int8", segment=lambda frame: frame)
    bundle: Any = None
    judge = Judge(bundle, data, [labels] * 3, Floors(), lambda *at: told.append(at[2]))
    assert judge.agreement(engine, 2) == 100
    assert told == []
    assert judge.agreement(engine) == 100
    assert told == ["agreement of int8"] * 3


@pytest.mark.parametrize(
    ("target", "spared"),
    [
        (90.0, []),
        (98.0, ["second"]),
        (99.0, ["second", "fourth"]),
        (99.9, ["second", "fourth", "first", "third"]),  # a quarter of 16, and not enough
    ],
)
def test_as_few_as_reach_the_target_and_at_most_a_quarter(target: float, spared: list[str]) -> None:
    assert spare(rows(), left, target) == spared


def test_sparing_that_makes_it_worse_is_not_kept() -> None:
    assert spare(rows(), lambda spared: 98 - len(spared), 99) == []


def test_few_layers_are_never_spared() -> None:
    assert spare(rows()[:3], lambda _: 10.0, 99) == []


@pytest.mark.parametrize(
    ("layers", "seconds", "frames"), [(45, 0.1, 4), (105, 2.0, 2), (105, 60.0, 1), (1, 0.0, 4)]
)
def test_a_sweep_looks_at_fewer_frames_where_it_would_take_long(
    layers: int, seconds: float, frames: int
) -> None:
    assert sweep_frames(layers, seconds) == frames
