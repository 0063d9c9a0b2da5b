"""Choice among candidates: ranks worked out by hand, and no reward for a collapse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bundle_cases import write_bundle
from roadshift.adapt.judging.choice import SCORES, standings, winner
from roadshift.adapt.judging.judge import judge_bundles
from roadshift.adapt.judging.verdict import signs_of_harm
from roadshift.adapt.models.loading import load_network
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.verdict import Check, Decision, Verdict


def check(name: str, candidate: float | None, passed: bool = True) -> Check:
    return Check(name, None, candidate, None, None, 0.0, passed, f"About {name}.")


def verdict(
    density: float | None,
    information: float = 1.0,
    opinion: float = 0.5,
    decision: Decision = "promote",
    *more: Check,
) -> Verdict:
    values = (density, information, opinion)
    checks = [check(name, value) for name, value in zip(SCORES, values, strict=True)]
    return Verdict(decision, f"It is {decision}.", (*checks, *more), 16)


def chosen(*verdicts: Verdict | str) -> int | None:
    return winner(standings(verdicts))


def test_the_best_mean_rank_wins() -> None:
    found = standings([verdict(3.0, 1.0, 0.5), verdict(2.0, 1.4, 0.7), verdict(1.0, 1.2, 0.6)])
    assert [standing.rank for standing in found] == [
        pytest.approx((1 + 3 + 3) / 3),
        pytest.approx((2 + 1 + 1) / 3),
        pytest.approx((3 + 2 + 2) / 3),
    ]
    assert winner(found) == 1
    assert found[1].record() == {
        "decision": "promote",
        "scores": {"density": 2.0, "information": 1.4, "opinion": 0.7},
        "rank": pytest.approx(4 / 3),
        "why": "",
    }


def test_equal_candidates_share_their_ranks_and_the_first_wins() -> None:
    found = standings([verdict(2.0), verdict(2.0)])
    assert [standing.rank for standing in found] == [1.5, 1.5]
    assert winner(found) == 0


def test_one_that_is_promoted_wins_over_a_better_ranked_one_that_is_asked_about() -> None:
    assert chosen(verdict(3.0, 2.0, 0.9, "ask"), verdict(2.0, 1.0, 0.5)) == 1
    assert chosen(verdict(2.0, 1.0, 0.5, "ask"), verdict(3.0, 2.0, 0.9, "ask")) == 1


def test_what_the_gate_keeps_out_or_shows_harm_cannot_win_whatever_its_density() -> None:
    poor = verdict(0.1, 0.1, 0.1)
    for other in (
        verdict(4.5, 3.0, 1.0, "keep"),
        verdict(4.5, 3.0, 1.0, "ask", check("histogram", 0.6, passed=False)),
        verdict(4.5, 3.0, 1.0, "ask", check("largest", 0.95, passed=False)),
        verdict(4.5, 3.0, 1.0, "ask", check("area_lost", 1.0, passed=False)),
        verdict(None, 3.0, 1.0),
        Verdict("ask", "The result could not be judged.", (), 0),
        "The run failed: its losses are not numbers.",
    ):
        found = standings([other, poor])
        assert winner(found) == 1
        assert found[0].rank is None
        assert found[0].why
        assert found[1].rank == 1  # the other one takes no rank
        assert chosen(other) is None


def test_a_check_that_only_speaks_for_a_candidate_is_no_harm_where_it_fails() -> None:
    gains = [check(name, 0.0, passed=False) for name in ("shift", "flip", "zoom", "older")]
    assert signs_of_harm(verdict(2.0, 1.0, 0.5, "ask", *gains)) == []
    assert chosen(verdict(2.0, 1.0, 0.5, "ask", *gains)) == 0


@pytest.fixture
def judged(
    source: Bundle, recording: Path, tmp_path: Path
) -> Callable[[str, float, float], Verdict]:
    """``judged(name, factor, bias)``: the gate on the source model with another classifier."""

    def judge(name: str, factor: float, bias: float) -> Verdict:
        network = load_network(source, torch.device("cpu"))
        with torch.no_grad():
            network.get_parameter("classifier.weight").mul_(factor)
            network.get_parameter("classifier.bias")[0] += bias
        candidate = write_bundle(tmp_path / name, network, like=source)
        return judge_bundles(source, candidate, [recording], max_frames=8, device="cpu")

    return judge


def test_a_collapsed_model_has_the_highest_density_and_does_not_win(
    judged: Callable[[str, float, float], Verdict],
) -> None:
    same, collapsed = judged("same", 1.05, 0.0), judged("collapsed", 1.0, 50.0)
    found = standings([same, collapsed])
    densities = [standing.scores["density"] for standing in found]
    assert densities[0] is not None
    assert densities[1] is not None
    assert densities[1] > densities[0]
    assert signs_of_harm(collapsed)
    assert found[1].rank is None
    assert winner(found) != 1
