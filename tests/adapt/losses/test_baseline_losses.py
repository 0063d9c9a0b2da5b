"""The baselines' terms against plain loops over pixels and classes in float64, gradients, edges.

The reference shares no code with the package: upsampling and softmax of `loss_cases`, and its own
entropy and cross-entropy, one pixel and one class at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import (
    CLASSES,
    GRIDS,
    RANDOM_CASES,
    SEEDS,
    Case,
    Pixel,
    Size,
    assert_terms,
    pixels,
    random_logits,
    softmax,
)
from roadshift.adapt.losses.baselines import (
    confident_labels,
    entropy_terms,
    information_maximisation_terms,
    pseudo_label_terms,
)
from roadshift.runtime.errors import ShapeError
from torch import Tensor

# --- the reference -------------------------------------------------------------------------------


def probabilities(logits: Tensor, size: Size, align_corners: bool) -> list[Pixel]:
    """p of every pixel, in the order of (B, H, W)."""
    return [softmax(scores) for scores in pixels(logits, size, align_corners)]


def entropy(p: Pixel) -> float:
    return sum(-value * math.log(value) for value in p if value > 0)


def mean_entropy(predicted: list[Pixel]) -> float:
    return sum(entropy(p) for p in predicted) / len(predicted)


def mean_prediction(predicted: list[Pixel]) -> Pixel:
    return [sum(p[c] for p in predicted) / len(predicted) for c in range(len(predicted[0]))]


def labels_above(predicted: list[Pixel], above: float) -> list[int]:
    return [p.index(max(p)) if max(p) > above else 255 for p in predicted]


def mean_cross_entropy(predicted: list[Pixel], labels: list[int]) -> float:
    losses = [-math.log(p[y]) for p, y in zip(predicted, labels, strict=True) if y != 255]
    return sum(losses) / len(losses) if losses else 0.0


# --- values --------------------------------------------------------------------------------------


over_random_shapes = settings(max_examples=40, deadline=None, derandomize=True)


@over_random_shapes
@given(case=RANDOM_CASES, weight=st.sampled_from([1.0, 0.3, 0.0]))
def test_entropy_and_diversity_equal_the_slow_loop(case: Case, weight: float) -> None:
    logits, size, corners = case.logits, case.size, case.align_corners
    predicted = probabilities(logits, size, corners)
    expected = {"entropy": mean_entropy(predicted)}
    assert_terms(entropy_terms(logits, size, align_corners=corners), expected)
    if weight:
        expected["diversity"] = -weight * entropy(mean_prediction(predicted))
    ours = information_maximisation_terms(logits, size, align_corners=corners, diversity=weight)
    assert_terms(ours, expected)


@over_random_shapes
@given(
    case=RANDOM_CASES,
    teacher_grid=GRIDS,
    above=st.sampled_from([0.0, 0.5, 0.9]),
    weights=st.sampled_from([(1.0, 0.0), (0.5, 2.0)]),
)
def test_pseudo_labels_and_their_cross_entropy_equal_the_slow_loop(
    case: Case, teacher_grid: Size, above: float, weights: tuple[float, float]
) -> None:
    logits, size, corners = case.logits, case.size, case.align_corners
    teacher = random_logits(case.seed + 1, case.batch, case.classes, *teacher_grid)
    labels = confident_labels(teacher, size, align_corners=corners, above=above)
    slow_labels = labels_above(probabilities(teacher, size, corners), above)
    assert labels.shape == (case.batch, *size)
    assert labels.flatten().tolist() == slow_labels
    predicted = probabilities(logits, size, corners)
    expected = {"pseudo_label": weights[0] * mean_cross_entropy(predicted, slow_labels)}
    if weights[1]:
        expected["entropy"] = weights[1] * mean_entropy(predicted)
    ours = pseudo_label_terms(
        logits,
        labels,
        size,
        align_corners=corners,
        pseudo_label=weights[0],
        entropy=weights[1],
    )
    assert_terms(ours, expected)


@over_random_shapes
@given(seed=SEEDS, classes=CLASSES, scale=st.sampled_from([0.01, 2.0, 500.0]))
def test_information_maximisation_stays_between_minus_log_k_and_zero(
    seed: int, classes: int, scale: float
) -> None:
    logits = random_logits(seed, 2, classes, 3, 4, scale=scale)
    terms = information_maximisation_terms(logits, (6, 7), align_corners=False)
    total = float(terms["entropy"] + terms["diversity"])
    assert -math.log(classes) - 1e-12 <= total <= 1e-12  # Jensen's inequality


def test_information_maximisation_tells_a_certain_even_set_from_one_where_a_winner_takes_all() -> (
    None
):
    even = 40 * torch.eye(4, dtype=torch.float64)[None, :, :, None]  # four pixels, a class each
    winner = even[:, :, :1].expand(-1, -1, 4, -1)
    for logits, expected in ((even, -math.log(4)), (winner, 0.0)):
        terms = information_maximisation_terms(logits, (4, 1), align_corners=False)
        assert float(terms["entropy"]) == pytest.approx(0, abs=1e-12)
        assert float(terms["diversity"]) == pytest.approx(expected, abs=1e-12)


def test_a_confidence_at_the_threshold_is_not_above_it() -> None:
    teacher = torch.zeros(1, 2, 1, 1)  # p = 1/2 each
    for above, expected in ((0.499, 0), (0.5, 255)):
        assert confident_labels(teacher, (1, 1), align_corners=False, above=above) == expected


# --- gradients -----------------------------------------------------------------------------------

SIZE = (4, 5)
LABELS = torch.tensor([[[0, 1, 2, 3, 255]] * 4, [[2, 2, 255, 255, 0]] * 4])
TERMS: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "entropy": lambda z, a: entropy_terms(z, SIZE, align_corners=a)["entropy"],
    "diversity": lambda z, a: information_maximisation_terms(z, SIZE, align_corners=a)["diversity"],
    "pseudo_label": lambda z, a: pseudo_label_terms(z, LABELS, SIZE, align_corners=a)[
        "pseudo_label"
    ],
    "weighted_entropy": lambda z, a: pseudo_label_terms(
        z, LABELS, SIZE, align_corners=a, entropy=0.5
    )["entropy"],
}


@pytest.mark.parametrize("align_corners", [True, False], ids=["corners", "centres"])
@pytest.mark.parametrize("name", TERMS)
def test_gradient_of_each_term(name: str, align_corners: bool) -> None:
    logits = random_logits(3, 2, 4, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: TERMS[name](z, align_corners), (logits,))


def test_a_class_that_no_pixel_gives_any_probability_has_a_finite_gradient() -> None:
    logits = torch.tensor([[500.0, -500.0, 0.0]])[..., None, None].requires_grad_()
    terms = information_maximisation_terms(logits, (2, 2), align_corners=False)
    (gradient,) = torch.autograd.grad(terms["entropy"] + terms["diversity"], logits)
    assert float(terms["diversity"].detach()) == pytest.approx(0, abs=1e-6)
    assert gradient.isfinite().all()


def test_no_labelled_pixel_gives_zero_and_zero_gradient() -> None:
    logits = random_logits(5, 2, 4, 2, 3).requires_grad_()
    nothing = torch.full((2, *SIZE), 255)
    term = pseudo_label_terms(logits, nothing, SIZE, align_corners=False)["pseudo_label"]
    (gradient,) = torch.autograd.grad(term, logits)
    assert term == 0
    assert gradient.abs().sum() == 0


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = random_logits(6, 1, 3, 2, 2).requires_grad_()
    assert not confident_labels(teacher, SIZE, align_corners=False).requires_grad


# --- widths and errors ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_terms_are_float32_whatever_the_logits_are(dtype: torch.dtype) -> None:
    logits = random_logits(8, 2, 4, 2, 3).to(dtype)
    terms = {
        **information_maximisation_terms(logits, SIZE, align_corners=False),
        **pseudo_label_terms(logits, LABELS, SIZE, align_corners=False),
    }
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_wrong_shapes_are_named() -> None:
    for function in (entropy_terms, information_maximisation_terms, confident_labels):
        with pytest.raises(ShapeError, match=rf"{function.__name__}: logits must be .*\(4, 2, 3\)"):
            function(torch.zeros(4, 2, 3), SIZE, align_corners=False)
    with pytest.raises(ShapeError, match=r"labels must be .*\(2, 4, 5\).*got \(2, 2, 3\)"):
        pseudo_label_terms(
            torch.zeros(2, 4, 2, 3),
            torch.zeros(2, 2, 3, dtype=torch.int64),
            SIZE,
            align_corners=False,
        )
