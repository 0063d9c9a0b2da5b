"""Adapting as a user asks for it: the gate, the patience, and what does not go together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from roadshift.adapt import Events, RunOptions, Student
from roadshift.adapt.training.time_allocation import PATIENCE_S
from roadshift.adapt.workflows import adapt_request
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.errors import ConfigError, RefusedError, UndecidedError
from roadshift.runtime.verdict import Decision, Verdict

Adapt = Callable[..., adapt_request.Adapted]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The request that the run got; its verdict is ``asked["decision"]``."""
    seen: dict[str, Any] = {"decision": "promote"}

    def run(
        source: object, frames: object, config: Any, job: RunOptions, *_: object, **more: Any
    ) -> Any:
        seen.update(source=source, frames=frames, config=config, job=job, **more)
        verdict = Verdict(seen["decision"], "Because.", (), 16)
        return SimpleNamespace(path=job.out, manifest=SimpleNamespace(verdict=verdict))

    monkeypatch.setattr(adapt_request, "adapt_bundle", run)
    monkeypatch.setattr(adapt_request, "adapt_black_box", run)
    return seen


@pytest.fixture
def adapt(source: Bundle, tmp_path: Path) -> Adapt:
    """``adapt(gate="warn", ...)``: of the source model, on a CPU."""

    def run(
        *, note: Callable[[str], None] = lambda _: None, **changes: Any
    ) -> adapt_request.Adapted:
        job = RunOptions(tmp_path / "out", device="cpu", events=Events(note=note))
        return adapt_request.adapt(source.path, ["frames"], job, **changes)

    return run


def test_nothing_but_frames_is_the_default_method_with_a_gate_and_patience(
    adapt: Adapt, asked: dict[str, Any], source: Bundle
) -> None:
    assert adapt(seed=3).refusal is None
    assert (asked["source"], asked["frames"]) == (source, ["frames"])
    assert (asked["config"].method, asked["config"].seed) == ("nightshift", 3)
    assert asked["gated"]
    assert asked["job"].patience_s == PATIENCE_S


@pytest.mark.parametrize(
    "changes", [{"assignments": ["training.steps=9"]}, {"method": "iapc"}], ids=str
)
def test_who_says_how_many_steps_or_another_method_is_not_cut_short(
    adapt: Adapt, asked: dict[str, Any], changes: dict[str, Any]
) -> None:
    adapt(**changes)
    assert asked["job"].patience_s is None


@pytest.mark.parametrize(("decision", "error"), [("keep", RefusedError), ("ask", UndecidedError)])
def test_only_a_refusing_gate_refuses_what_is_not_promoted(
    adapt: Adapt, asked: dict[str, Any], decision: Decision, error: type[Exception]
) -> None:
    asked["decision"] = decision
    for gate in (None, "refuse"):
        assert isinstance(adapt(gate=gate).refusal, error)
    assert adapt(gate="warn").refusal is None
    assert asked["gated"]
    assert adapt(gate="off").refusal is None
    assert not asked["gated"]


def test_a_black_box_has_a_student_and_no_gate(adapt: Adapt, asked: dict[str, Any]) -> None:
    said: list[str] = []
    asked["decision"] = "keep"
    student = Student("fast_scnn", input_size=(96, 64))
    done = adapt(method="das3_black_box", student=student, note=said.append)
    assert done.refusal is None
    assert "no gate" in said[0]
    assert "gated" not in asked


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"student": Student("fast_scnn")}, "are for black-box methods; nightshift starts from"),
        ({"method": "das3_black_box", "older": ["day"]}, "older: a student of a black box"),
        ({"method": "das3_black_box", "gate": "warn"}, "no incumbent to judge its student"),
        ({"gate": "shut"}, "is none of refuse, warn, off"),
        ({"method": "supervised"}, "unknown to adapt"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused_before_anything_runs(
    adapt: Adapt, asked: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        adapt(**changes)
    assert "job" not in asked
