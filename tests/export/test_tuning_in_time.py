"""The search for what a quantised precision spares, within a time budget, by a clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from roadshift.adapt.run.budget import Deadline
from roadshift.export import tuning
from roadshift.export.stretches import stretches
from roadshift.export.tuning import Tuner
from roadshift.runtime.arguments import ProgressUpdate
from run_clock import Clock

LAYERS = [f"layer {i}" for i in range(40)]
COST = dict.fromkeys(LAYERS, 0.001) | {"layer 0": 0.5, "layer 20": 2.0, "layer 21": 1.0}
FRAME_S, FRAMES = 0.1, 8
Tune = Callable[..., tuple[list[str], dict[str, Any], list[str]]]


@pytest.fixture
def tune(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Tune:
    """Tune graphs that are no more than the names of their spared layers, each with its cost."""
    fakes: dict[str, Any] = {
        "layers_for": lambda *_: [SimpleNamespace(name=name) for name in LAYERS],
        "opset": lambda _: 20,
        "quantised_values": lambda *_: [],
        "quantise": lambda _model, _form, _ranges, spared: frozenset(spared),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(tuning, name, fake)
    monkeypatch.setattr(tuning.onnx.checker, "check_model", lambda _: None)

    def agreement(spared: Collection[str], frames: int | None = None) -> float:
        clock.now += FRAME_S * (frames or FRAMES)
        return 100 - sum(cost for name, cost in COST.items() if name not in spared)

    judge: Any = SimpleNamespace(agreement=agreement, miou=lambda _: None)
    calibration: Any = SimpleNamespace(frames=[], choice=[], source="a road")

    def run(
        target: float, deadline: Deadline | None = None, forms: Any = ("int8",)
    ) -> tuple[list[str], dict[str, Any], list[str]]:
        notes: list[str] = []
        opened: Any = lambda graph, _: nullcontext(graph)  # noqa: E731
        model: Any = None
        tuner = Tuner(
            model, calibration, judge, opened, note=notes.append, deadline=deadline, forms=forms
        )
        found = [tuner.tune(form, target)[1]["quantisation"] for form in forms]
        return found[-1]["spared"], found[-1], notes

    return run


def test_without_a_budget_every_layer_is_looked_at_and_the_cost_said_before(tune: Tune) -> None:
    spared, details, notes = tune(99.9)
    assert set(spared[:3]) == {"layer 0", "layer 20", "layer 21"}
    assert len(details["sweep"]["layers"]) == len(LAYERS) == details["layers"]
    assert notes == ["int8: 40 layers one at a time on 4 frames, at most 16 s"]


@pytest.mark.parametrize("budget_s", [1.0, 4.0, 9.0, 15.0, 60.0])
@pytest.mark.parametrize("forms", [("int8",), ("int8", "int8-cpu")])
def test_the_search_ends_in_time_with_the_best_so_far(
    budget_s: float, forms: tuple[str, ...], clock: Clock, tune: Tune
) -> None:
    began, unavoidable_s = clock.now, len(forms) * FRAME_S * FRAMES
    spared, details, notes = tune(99.9, Deadline(budget_s), forms)
    assert clock.now - began <= max(budget_s, unavoidable_s)
    rows = details["sweep"]["layers"]
    assert set(spared) <= {row["layer"] for row in rows}
    if budget_s >= 60:
        assert len(rows) == len(LAYERS)
        assert set(spared[:3]) == {"layer 0", "layer 20", "layer 21"}
    elif budget_s <= 9:
        assert any("looked at in time" in note for note in notes)


def test_a_short_sweep_spares_the_most_sensitive_of_those_it_looked_at(tune: Tune) -> None:
    spared, details, _ = tune(99.9, Deadline(8.0))
    looked_at = {row["layer"] for row in details["sweep"]["layers"]}
    assert 4 <= len(looked_at) < len(LAYERS)
    assert spared[0] == max(looked_at, key=lambda name: COST[name])


def test_with_a_budget_nothing_is_searched_beyond_the_target(clock: Clock, tune: Tune) -> None:
    began = clock.now
    spared, details, notes = tune(90.0, Deadline(100.0))
    assert (spared, details["sweep"], notes) == ([], {"frames": 0, "layers": []}, [])
    assert clock.now - began == pytest.approx(3 * FRAME_S * FRAMES)  # the three methods


def test_each_stretch_has_its_own_rate() -> None:
    seen: list[ProgressUpdate] = []
    now = iter([0.0, 1.0, 1.0, 3.0, 5.0, 6.0, 6.0, 9.0])
    report = stretches(seen.append, lambda: next(now))
    report(0, 4, "sensitivity of one")  # begins at 1
    report(1, 4, "sensitivity of two")
    report(2, 4, "sensitivity of three")
    report(0, 4, "agreement of int8")  # another stretch, as long
    report(1, 4, "agreement of int8")
    assert [(u.per_s, u.left_s) for u in seen] == [
        (0.0, None),
        (0.5, 6.0),
        (0.5, 4.0),
        (0.0, None),
        (pytest.approx(1 / 3), pytest.approx(9.0)),
    ]
