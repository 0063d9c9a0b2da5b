"""Older frames that a candidate has forgotten, and what that does to a verdict."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from judging_cases import CPU, NAMES, SPEC, frames, model, trained
from roadshift.adapt.judging.forgetting import LEAST_REMEMBERED, remembered, with_older
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks.mixed_statistics import reestimate_batch_norm
from roadshift.adapt.scoring.views import ScoredModel
from roadshift.runtime.errors import FrameError
from roadshift.runtime.verdict import Check, Decision, Verdict


def test_the_same_model_remembers_all() -> None:
    check = remembered(model(), model(), frames("daylight", 3, 0), CPU, NAMES)
    assert check.passed
    assert check.candidate == 1.0
    assert "On 3 older frames" in check.sentence


def test_a_model_of_the_fog_has_forgotten_the_day_and_the_class_is_named() -> None:
    network = copy.deepcopy(trained())
    fog = Normalise(SPEC)(torch.from_numpy(np.stack(frames("fog", 8, 300))))
    reestimate_batch_norm(network, [fog], 1.0)
    check = remembered(model(), ScoredModel(network, SPEC), frames("daylight", 4, 0), CPU, NAMES)
    assert not check.passed
    assert check.candidate is not None
    assert check.low is not None
    assert check.high is not None
    assert check.low <= check.candidate <= check.high < LEAST_REMEMBERED
    assert any(name in check.sentence for name in NAMES)
    assert "forgotten" in check.sentence


def test_without_frames_it_is_an_error() -> None:
    with pytest.raises(FrameError, match="older frames"):
        remembered(model(), model(), [], CPU, NAMES)


@pytest.mark.parametrize(
    ("decision", "passed", "after"),
    [
        ("promote", True, "promote"),
        ("promote", False, "ask"),
        ("keep", False, "keep"),
        ("ask", False, "ask"),
    ],
)
def test_who_has_forgotten_is_promoted_by_a_person_alone(
    decision: Decision, passed: bool, after: str
) -> None:
    check = Check("older", None, 0.5, 0.4, 0.6, LEAST_REMEMBERED, passed, "On 3 older frames ...")
    verdict = with_older(Verdict(decision, "because", (), 16), check)
    assert verdict.decision == after
    assert verdict.checks == (check,)
    assert ("On 3 older frames" in verdict.sentence) == (decision == "promote" and not passed)
