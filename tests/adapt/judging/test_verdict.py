"""Verdicts on spoilt candidates, each with its sentence, and the rules between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from judging_cases import (
    CPU,
    HEIGHT,
    NAMES,
    SPEC,
    WIDTH,
    constant,
    frames,
    model,
    not_numbers,
    permuted,
    trained,
    uniform,
    without,
)
from roadshift.adapt.judging.evidence import BATCH, Evidence, gather
from roadshift.adapt.judging.score_accumulator import Score
from roadshift.adapt.judging.verdict import decide
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import build_network
from roadshift.adapt.networks.mixed_statistics import reestimate_batch_norm
from roadshift.adapt.scoring.views import ScoredModel
from roadshift.runtime.errors import FrameError
from roadshift.runtime.verdict import Verdict
from torch import nn


def judged(candidate: ScoredModel, domain: str) -> Verdict:
    return decide(gather(model(), candidate, frames(domain, 16, 500), CPU), NAMES)


@pytest.mark.parametrize("domain", ["daylight", "night"])
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (constant, "collapsed into one class"),
        (uniform, "hardly knows one class from another"),
        (permuted, "its classes have changed places"),
        (lambda: without(0), "road"),
        (not_numbers, "not numbers"),
    ],
    ids=["constant", "uniform", "permuted", "without road", "NaN"],
)
def test_a_spoilt_candidate_is_refused_with_the_reason(
    spoil: Callable[[], ScoredModel], sentence: str, domain: str
) -> None:
    verdict = judged(spoil(), domain)
    assert verdict.decision == "keep"
    reasons = [verdict.sentence, *(c.sentence for c in verdict.checks if not c.passed)]
    assert any(sentence in reason for reason in reasons)


def test_a_class_deleted_is_named() -> None:
    car = NAMES.index("car")
    verdict = judged(without(car), "daylight")
    assert verdict.decision == "keep"
    assert "car loses most, 100% of its area" in verdict.sentence


def test_nothing_changes_where_nothing_is_to_be_gained() -> None:
    verdict = judged(model(), "daylight")
    assert verdict.decision == "keep"
    assert "gains too little for the risk" in verdict.sentence


def test_statistics_of_dusk_are_promoted_at_dusk() -> None:
    candidate = model()
    dusk = np.stack(frames("dusk", 24, 300))
    reestimate_batch_norm(candidate.network, [Normalise(SPEC)(torch.from_numpy(dusk))], 1.0)
    verdict = judged(candidate, "dusk")
    assert verdict.decision == "promote", verdict
    assert judged(candidate, "daylight").decision == "keep"


def test_the_same_model_twice_is_not_promoted_in_any_light() -> None:
    for domain in ("dusk", "night", "fog"):
        assert judged(model(), domain).decision == "keep"


@pytest.mark.parametrize("count", [1, BATCH + 1])
def test_frames_of_any_size_and_one_left_over_will_do(count: int) -> None:
    network = build_network("fast_scnn", len(NAMES))  # pools the frame to one pixel
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (90, 200, 3)).astype(np.uint8) for _ in range(count)]
    evidence = gather(ScoredModel(network, SPEC), ScoredModel(network, SPEC), images, CPU)
    assert evidence.frames == count
    assert evidence.scores["flip"].difference == 0


def test_no_frame_is_an_error() -> None:
    with pytest.raises(FrameError, match="No frame"):
        gather(model(), model(), [], CPU)


def test_judging_changes_neither_model() -> None:
    both = model(), model(without(3).network)
    states = [{k: v.clone() for k, v in m.network.state_dict().items()} for m in both]
    both[1].network.train()
    modes = [[module.training for module in m.network.modules()] for m in both]
    gather(*both, frames("dusk", 6, 0), CPU)
    for m, state, mode in zip(both, states, modes, strict=True):
        assert [module.training for module in m.network.modules()] == mode
        for name, value in m.network.state_dict().items():
            assert torch.equal(value, state[name]), name


def test_without_batch_norm_what_is_missing_is_said() -> None:
    plain = model()
    for name in ("norm", "norm2"):
        setattr(plain.network, name, nn.Identity())
    evidence = gather(plain, plain, frames("night", 8, 0), CPU)
    assert evidence.share is None
    verdict = decide(evidence, NAMES)
    assert verdict.decision == "keep"
    assert "no batch-norm statistics" in verdict.sentence


UNKNOWN = Score(math.nan, math.nan, math.nan, math.nan)
LITTLE = Score(1.0, 1.02, 0.01, 0.03)  # surely more, but no clear gain


@pytest.mark.parametrize("lacking", [None, "information", "flip", "zoom"])
def test_without_batch_norm_a_small_gain_needs_all_the_other_signs(lacking: str | None) -> None:
    missing = {"information": LITTLE}
    if lacking:
        missing[lacking] = Score(1.0, 1.1, -0.1, 0.2)
    verdict = decide(replace(evidence_of(divergence=UNKNOWN, **missing), share=None), NAMES)
    assert verdict.decision == ("keep" if lacking else "promote")
    assert "no batch-norm statistics" in verdict.sentence
    (opinion,) = (check for check in verdict.checks if check.name == "opinion")
    assert (opinion.incumbent, opinion.candidate) == (None, None)
    assert "there is no second opinion" in opinion.sentence
    for check in verdict.checks:
        if check.name in ("information", "flip", "zoom"):
            assert (check.sentence in verdict.sentence) == (lacking in (None, check.name))


@pytest.mark.parametrize("doubtful", ["flip", "zoom"])
@pytest.mark.parametrize("surely_worse", [False, True])
def test_without_batch_norm_a_clear_gain_needs_one_view(doubtful: str, surely_worse: bool) -> None:
    """And no class may vanish, but one may lose more than half, as where the shift is large."""
    view = LESS if surely_worse else Score(1.0, 1.1, -0.1, 0.2)
    evidence = evidence_of(
        divergence=UNKNOWN, information=Score(1.0, 1.2, 0.1, 0.3), **{doubtful: view}
    )
    evidence = replace(evidence, share=None, lost={0: 0.7})
    verdict = decide(evidence, NAMES)
    assert verdict.decision == ("keep" if surely_worse else "promote")
    assert "no batch-norm statistics" in verdict.sentence
    if not surely_worse:
        assert "So much was gained: The candidate is surer" in verdict.sentence
    assert decide(replace(evidence, lost={0: 0.9}), NAMES).decision == "keep"
    small = replace(evidence, scores={**evidence.scores, "information": LITTLE})
    assert decide(small, NAMES).decision == "keep"


def test_a_network_of_one_size_is_judged_without_a_smaller_view() -> None:
    class OneSize(type(trained())):  # type: ignore[misc]
        def forward(self, images: torch.Tensor) -> object:
            assert images.shape[2:] == (HEIGHT, WIDTH)
            return super().forward(images)

    fixed = OneSize().eval()
    fixed.load_state_dict(trained().state_dict())
    candidate = ScoredModel(fixed, SPEC)
    dusk = np.stack(frames("dusk", 24, 300))
    reestimate_batch_norm(fixed, [Normalise(SPEC)(torch.from_numpy(dusk))], 1.0)
    verdict = decide(gather(model(), candidate, frames("dusk", 16, 500), CPU), NAMES)
    zoom = next(check for check in verdict.checks if check.name == "zoom")
    assert not zoom.passed
    assert "input size alone" in zoom.sentence
    assert verdict.decision == "promote"  # the other signs suffice where the shift is large


def test_a_network_of_multiples_is_judged_in_a_smaller_view_of_a_multiple() -> None:
    class Multiples(type(trained())):  # type: ignore[misc]
        def forward(self, images: torch.Tensor) -> object:
            sizes.append(tuple(images.shape[2:]))
            assert all(side % 16 == 0 for side in images.shape[2:])
            return super().forward(images)

    sizes: list[tuple[int, ...]] = []
    network = Multiples().eval()
    network.load_state_dict(trained().state_dict())
    evidence = gather(ScoredModel(network, SPEC), model(), frames("night", 8, 500), CPU)
    assert evidence.scores["zoom"].candidate > 0
    assert set(sizes) == {(HEIGHT, WIDTH), (48, 96)}


def test_two_networks_of_unlike_strides_are_compared_pixel_by_pixel() -> None:
    class Coarse(type(trained())):  # type: ignore[misc]
        def forward(self, images: torch.Tensor) -> object:
            output = super().forward(images)
            return output._replace(logits=nn.functional.avg_pool2d(output.logits, 2))

    coarse = Coarse().eval()
    coarse.load_state_dict(trained().state_dict())
    evidence = gather(model(), ScoredModel(coarse, SPEC), frames("daylight", 4, 0), CPU)
    assert evidence.scores["agreement"].candidate > 0.9


# --- the rules ------------------------------------------------------------------------------------

LESS = Score(0.4, 0.3, -0.2, -0.1)
SOME = Score(0.81, 0.95, 0.1, 0.2)
SMALL = Score(0.945, 0.98, 0.01, 0.05)  # the incumbent and its second opinion are of one mind


def evidence_of(**changes: Score) -> Evidence:
    """Evidence for a candidate that deserves promotion, with ``changes``."""
    scores = {
        "entropy": Score(0.4, 0.3, -0.1, -0.05),
        "largest": Score(None, 0.3, 0.29, 0.31),
        "agreement": Score(None, 0.99, 0.98, 1.0),
        "histogram": Score(None, 0.05, 0.04, 0.06),
        "divergence": Score(0.3, 0.01, -0.29, -0.29),
        "density": Score(2.0, 2.1, 0.0, 0.2),
        "information": Score(1.0, 1.4, 0.3, 0.5),
        "opinion": Score(0.5, 0.9, 0.3, 0.5),
        "flip": Score(0.4, 0.5, 0.05, 0.15),
        "zoom": Score(0.4, 0.5, 0.05, 0.15),
    }
    return Evidence(16, True, scores | changes, {0: 0.1, 3: 0.4}, share=0.5)


def test_every_sign_of_gain_promotes() -> None:
    verdict = decide(evidence_of(), NAMES, seconds=1.5)
    assert verdict.decision == "promote"
    assert all(check.passed for check in verdict.checks)
    assert verdict.record()["seconds"] == 1.5


@pytest.mark.parametrize(
    ("change", "decision", "sentence"),
    [
        ({"entropy": Score(0.4, 0.71, 0.3, 0.4)}, "keep", "hardly knows"),
        ({"largest": Score(None, 0.91, 0.9, 0.95)}, "keep", "one class"),
        ({"agreement": Score(None, 0.89, 0.8, 0.9)}, "keep", "forgotten"),
        ({"histogram": Score(None, 0.46, 0.4, 0.5)}, "keep", "another world"),
        ({"density": Score(2.0, 4.21, 2.0, 2.4)}, "keep", "same everywhere"),
        ({"divergence": Score(0.3, 0.36, 0.06, 0.06)}, "keep", "something else"),
        ({"opinion": SMALL}, "promote", "And yet all speaks for it"),
        ({"opinion": SMALL, "zoom": Score(0.4, 0.41, -0.01, 0.03)}, "keep", "too little"),
        ({"opinion": SMALL, "flip": Score(0.4, 0.41, -0.01, 0.03)}, "keep", "too little"),
        ({"opinion": SMALL, "information": Score(1.0, 1.0, 0.0, 0.0)}, "keep", "too little"),
        ({"information": Score(1.0, 1.01, -0.01, 0.03)}, "promote", "nearer to the"),
        ({"information": Score(1.0, 0.9, -0.2, -0.1)}, "promote", "nearer to the"),
        ({"zoom": LESS, "opinion": SOME}, "ask", "not steadier when a frame is made smaller"),
        ({"flip": LESS, "opinion": SOME}, "ask", "not steadier when a frame is mirrored"),
        ({"flip": LESS, "zoom": LESS}, "promote", "nearer to the"),  # by 30 points and more
        ({"divergence": Score(0.07, 0.01, -0.06, -0.06)}, "promote", "nearer to the"),
        ({"divergence": Score(0.07, 0.01, -0.06, -0.06), "opinion": SOME}, "promote", "below 20%"),
        (
            {"information": Score(1.0, 1.01, -0.01, 0.03), "opinion": Score(0.5, 0.5, -0.1, 0.1)},
            "ask",
            "mixed",
        ),
        (
            {"opinion": Score(0.5, 0.5, -0.1, 0.1), "flip": Score(0.4, 0.4, -0.1, 0.1)},
            "ask",
            "mixed",
        ),
        ({"opinion": Score(0.5, 0.5, -0.1, 0.1)}, "promote", "mirrored"),
        (
            {
                "information": Score(1.0, 0.9, -0.2, 0.0),
                "opinion": Score(0.5, 0.5, -0.1, 0.1),
                "flip": Score(0.4, 0.4, -0.1, 0.1),
            },
            "keep",
            "Nothing speaks for",
        ),
    ],
)
def test_each_score_has_its_say(change: dict[str, Score], decision: str, sentence: str) -> None:
    verdict = decide(evidence_of(**change), NAMES)
    assert verdict.decision == decision
    assert sentence in verdict.sentence


def test_without_a_shift_a_class_that_loses_half_its_area_is_too_much() -> None:
    evidence = replace(evidence_of(opinion=SMALL), lost={2: 0.51})
    kept = decide(evidence, NAMES)
    assert kept.decision == "keep"
    assert f"{NAMES[2]} loses most, 51% of its area; above 50% that is too much" in kept.sentence
    unseen = decide(replace(evidence, lost={}), NAMES)
    assert (unseen.decision, "what is lost is unknown" in unseen.sentence) == ("keep", True)
    assert decide(replace(evidence, lost={2: 0.5}), NAMES).decision == "promote"
    lost = decide(replace(evidence_of(), lost={2: 0.81}), NAMES)
    assert lost.decision == "keep"
    assert f"{NAMES[2]} loses most, 81% of its area" in lost.sentence
