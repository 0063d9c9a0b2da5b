"""Nightshift's terms and class weights against plain float64 loops over pixels and classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import (
    BATCHES,
    CLASSES,
    GRIDS,
    SEEDS,
    SIZES,
    Size,
    assert_terms,
    log_softmax,
    pixels,
)
from roadshift.adapt.losses.nightshift import nightshift_terms
from roadshift.adapt.pseudo_labels.class_balance import sqrt_inverse_weights
from roadshift.runtime.errors import ShapeError
from torch import Tensor

CASES = settings(max_examples=50, deadline=None, derandomize=True)

# --- the reference ------------------------------------------------------------------------------


def reference_terms(
    logits: Tensor,
    target: Tensor,
    size: Size,
    *,
    align_corners: bool,
    class_weights: Tensor,
    weight_entropy: float = 0.0,
) -> dict[str, float]:
    a = class_weights.tolist()
    loss_sum = weight_sum = entropy_sum = 0.0
    predictions = [log_softmax(z) for z in pixels(logits, size, align_corners)]
    labels = target.permute(0, 2, 3, 1).flatten(0, 2).tolist()
    for log_p, q in zip(predictions, labels, strict=True):
        w = sum(a_c * q_c for a_c, q_c in zip(a, q, strict=True))
        weight_sum += w
        loss_sum += w * -sum(q_c * v for q_c, v in zip(q, log_p, strict=True))
        entropy_sum += -sum(math.exp(v) * v for v in log_p)
    terms = {"soft": loss_sum / weight_sum if weight_sum else 0.0}
    if weight_entropy:
        terms["entropy"] = weight_entropy * entropy_sum / len(predictions)
    return terms


# --- what goes in -------------------------------------------------------------------------------


def inputs(
    seed: int,
    *,
    shape: tuple[int, int] = (2, 4),
    grid: Size = (3, 4),
    size: Size = (7, 9),
    spread: float = 2.0,
    unlabelled: float = 0.3,
    hard: bool = False,
) -> dict[str, Any]:
    """Logits, labels and class weights for ``shape`` (batch, classes), in float64."""
    batch, classes = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    scores = 2 * draw(batch, classes, *size)
    target = scores.softmax(dim=1)
    if hard:
        target = F.one_hot(scores.argmax(dim=1), classes).movedim(3, 1).double()
    kept = torch.rand((batch, 1, *size), generator=generator) >= unlabelled
    return {
        "logits": spread * draw(batch, classes, *grid),
        "target": target * kept,
        "size": size,
        "class_weights": 0.5 + 2.5 * torch.rand(classes, generator=generator, dtype=torch.float64),
    }


# --- the terms ----------------------------------------------------------------------------------


@CASES
@given(
    seed=SEEDS,
    shape=st.tuples(BATCHES, CLASSES),
    grid=GRIDS,
    size=SIZES,
    spread=st.sampled_from([1e-3, 1.0, 1e4]),
    unlabelled=st.sampled_from([0.0, 0.4, 1.0]),
    hard=st.booleans(),
    align_corners=st.booleans(),
    weight_entropy=st.sampled_from([0.0, 0.3]),
)
def test_the_terms_are_the_equations_pixel_by_pixel(
    seed: int,
    shape: tuple[int, int],
    grid: Size,
    size: Size,
    spread: float,
    unlabelled: float,
    hard: bool,
    align_corners: bool,
    weight_entropy: float,
) -> None:
    case = inputs(
        seed, shape=shape, grid=grid, size=size, spread=spread, unlabelled=unlabelled, hard=hard
    )
    options = {"align_corners": align_corners, "weight_entropy": weight_entropy}
    assert_terms(nightshift_terms(**case, **options), reference_terms(**case, **options))


@pytest.mark.parametrize("align_corners", [False, True])
def test_gradients_in_float64(align_corners: bool) -> None:
    case = inputs(0, grid=(2, 3), size=(5, 4))
    case["logits"].requires_grad_()

    def total(logits: Tensor) -> Tensor:
        terms = nightshift_terms(
            **{**case, "logits": logits}, align_corners=align_corners, weight_entropy=0.7
        )
        return torch.stack(list(terms.values()))

    assert torch.autograd.gradcheck(total, (case["logits"],))


def test_without_any_label_the_term_is_zero_with_zero_gradient() -> None:
    case = inputs(1, unlabelled=1.0)
    logits = case["logits"].requires_grad_()
    (term,) = nightshift_terms(**case, align_corners=False).values()
    (gradient,) = torch.autograd.grad(term, logits)
    assert term.item() == 0
    assert (gradient == 0).all()


def test_a_pixel_without_a_label_pulls_at_nothing_and_every_other_does() -> None:
    case = inputs(2, grid=(7, 9))
    logits = case["logits"].requires_grad_()
    term = nightshift_terms(**case, align_corners=False)["soft"]
    (gradient,) = torch.autograd.grad(term, logits)
    labelled = case["target"].sum(dim=1) > 0
    assert 0 < labelled.sum() < labelled.numel()
    assert torch.equal(gradient.abs().sum(dim=1) > 0, labelled)


def test_one_hot_labels_give_the_weighted_cross_entropy_of_their_classes() -> None:
    case = inputs(3, grid=(7, 9), hard=True)
    classes = case["target"].argmax(dim=1).where(case["target"].sum(dim=1) > 0, 255)
    expected = F.cross_entropy(case["logits"], classes, case["class_weights"], ignore_index=255)
    ours = nightshift_terms(**case, align_corners=False)["soft"]
    assert ours.item() == pytest.approx(expected.item(), rel=1e-12)


def test_only_the_ratio_of_the_class_weights_counts() -> None:
    case = inputs(4)
    doubled = {**case, "class_weights": 2 * case["class_weights"]}
    first, second = (nightshift_terms(**c, align_corners=False)["soft"] for c in (case, doubled))
    assert first.item() == pytest.approx(second.item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_logits_in_half_precision_are_summed_in_float32(dtype: torch.dtype) -> None:
    case = inputs(5, size=(65, 33))
    case = {n: v.float() if isinstance(v, Tensor) else v for n, v in case.items()}
    case["logits"] = case["logits"].to(dtype)
    ours = nightshift_terms(**case, align_corners=True, weight_entropy=0.5)
    expected = reference_terms(**case, align_corners=True, weight_entropy=0.5)
    for name, value in expected.items():
        assert ours[name].dtype == torch.float32
        assert ours[name].item() == pytest.approx(value, rel=1e-5), name


def test_mixed_precision_does_not_round_the_labels_weights() -> None:
    case = inputs(6, size=(65, 33))
    case = {n: v.float() if isinstance(v, Tensor) else v for n, v in case.items()}
    plain = nightshift_terms(**case, align_corners=False, weight_entropy=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = nightshift_terms(**case, align_corners=False, weight_entropy=0.5)
    for name, term in plain.items():
        assert mixed[name].dtype == torch.float32
        assert mixed[name].item() == pytest.approx(term.item(), rel=1e-6), name


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"logits": torch.zeros(4, 3, 4)}, r"floating \(B, K, h, w\) with K >= 2, got \(4, 3, 4\)"),
        ({"logits": torch.zeros(2, 4, 3, 4, dtype=torch.int64)}, r"torch\.int64"),
        ({"logits": torch.zeros(2, 1, 3, 4)}, "K >= 2"),
        ({"target": torch.zeros(2, 4, 7, 8)}, r"target must be \(2, 4, 7, 9\).*\(2, 4, 7, 8\)"),
        ({"target": torch.zeros(1, 4, 7, 9)}, r"target must be \(2, 4, 7, 9\).*\(1, 4, 7, 9\)"),
        ({"target": torch.zeros(2, 1, 7, 9)}, r"target must be \(2, 4, 7, 9\).*\(2, 1, 7, 9\)"),
        ({"target": torch.zeros(2, 7, 9)}, r"target must be .* at 7x9 pixels .*\(2, 7, 9\)"),
        ({"class_weights": torch.ones(1)}, r"class_weights must be \(4,\).*got \(1,\)"),
        ({"class_weights": torch.ones(2, 4)}, r"class_weights must be \(4,\).*got \(2, 4\)"),
    ],
)
def test_shapes_that_disagree_are_named(changes: dict[str, Tensor], sentence: str) -> None:
    with pytest.raises(ShapeError, match=f"nightshift_terms: .*{sentence}"):
        nightshift_terms(**{**inputs(7), **changes}, align_corners=False)


# --- class weights ------------------------------------------------------------------------------


def reference_weights(mass: list[float]) -> list[float]:
    occurring = sorted(m for m in mass if m > 1e-4 * sum(mass))
    if not occurring:
        return [3.0] * len(mass)
    median = occurring[(len(occurring) - 1) // 2]
    return [3.0 if m == 0 else min(3.0, max(0.5, math.sqrt(median / m))) for m in mass]


@CASES
@given(mass=st.lists(st.just(0.0) | st.floats(1e-6, 1.0), min_size=2, max_size=20))
def test_class_weights_follow_the_formula_with_absent_classes_at_3(mass: list[float]) -> None:
    ours = sqrt_inverse_weights(torch.tensor(mass, dtype=torch.float64))
    assert ours.tolist() == pytest.approx(reference_weights(mass), rel=1e-12)


@pytest.mark.parametrize("trace", [0.0, 5e-5])  # soft labels leave a trace of every class
def test_absent_classes_do_not_move_the_weights_of_the_others(trace: float) -> None:
    mass = torch.tensor([0.6, 0.3, 0.1])
    with_absent = torch.cat([mass, torch.full((9,), trace)])
    assert torch.equal(sqrt_inverse_weights(with_absent)[:3], sqrt_inverse_weights(mass))
    assert sqrt_inverse_weights(mass).tolist() == pytest.approx([0.5**0.5, 1.0, 3**0.5])
