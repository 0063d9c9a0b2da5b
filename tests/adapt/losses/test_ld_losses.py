"""LD's terms against plain loops over pixels and classes in float64, their gradients, edges.

The reference below shares no code with the package: upsampling and softmax of `loss_cases`, and its
own ranking and cross-entropy, one pixel and one class at a time.
"""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import (
    RANDOM_CASES,
    SEEDS,
    SIZES,
    Case,
    Size,
    assert_terms,
    log_softmax,
    pixels,
    random_labels,
    random_logits,
    softmax,
)
from roadshift.adapt.losses.backends.spec import Kernel
from roadshift.adapt.losses.ld import (
    Complementary,
    LdWeights,
    MeanOver,
    boundary_cross_entropy,
    complementary_ranks,
    confident_images_cross_entropy,
    ld_terms,
    near_boundary,
    negative_term,
)
from roadshift.runtime.errors import ShapeError
from torch import Tensor

CPU = torch.device("cpu")
WEIGHTS = LdWeights(selected=1.0, entropy=0.7, negative=0.3)
ONES = LdWeights(1.0, 1.0, 1.0)

# --- the reference ------------------------------------------------------------------------------


def reference_terms(
    logits: Tensor,
    labels: Tensor,
    ranks: Tensor,
    size: Size,
    align_corners: bool,
    weights: LdWeights,
    class_weights: Tensor | None,
    over: MeanOver = "selected",
) -> dict[str, float]:
    """Equations 3, 4 and 6, a pixel at a time; 1 - p held above 1e-5, as the authors' code does."""
    selected = entropy = negative = 0.0
    labelled = 0
    scores = pixels(logits, size, align_corners)
    chosen = (tensor.expand(labels.shape).flatten().tolist() for tensor in (labels, ranks))
    for z, label, k in zip(scores, *chosen, strict=True):
        p = softmax(z)
        if label != 255:
            a = 1.0 if class_weights is None else float(class_weights[label])
            selected += a * -math.log(p[label])
            labelled += 1
        entropy += sum(-value * math.log(value) for value in p)
        unlikely = sorted(p, reverse=True)[k - 1]
        negative += -math.log(max(1 - unlikely, 1e-5))
    return {
        "selected": weights.selected
        * selected
        / (len(scores) if over == "all" else max(labelled, 1)),
        "entropy": weights.entropy * entropy / len(scores),
        "negative": weights.negative * negative / len(scores),
    }


def reference_near(labels: Tensor, width: int) -> Tensor:
    """Squares that hold two classes, a square at a time."""
    batch, height, across = labels.shape
    near = torch.zeros(labels.shape, dtype=torch.bool)
    for b in range(batch):
        for y in range(height):
            for x in range(across):
                rows = slice(max(0, y - width), y + width + 1)
                columns = slice(max(0, x - width), x + width + 1)
                near[b, y, x] = len(set(labels[b, rows, columns].flatten().tolist()) - {255}) > 1
    return near


# --- values -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    case=RANDOM_CASES,
    per_pixel=st.booleans(),
    balanced=st.booleans(),
    unlabelled=st.sampled_from([0.0, 0.7, 1.0]),
    over=st.sampled_from(["selected", "all"]),
    rule=st.sampled_from(["ranked", "ranked_below", "random"]),
)
def test_every_term_equals_the_slow_loop_over_random_shapes(
    case: Case,
    per_pixel: bool,
    balanced: bool,
    unlabelled: float,
    over: MeanOver,
    rule: Complementary,
) -> None:
    shape, corners = (case.batch, *case.size), case.align_corners
    labels = random_labels(case.seed, case.classes, shape, unlabelled)
    torch.manual_seed(case.seed)
    ranks = complementary_ranks(case.classes, shape if per_pixel else (), 3, CPU, rule)
    a = torch.rand(case.classes, dtype=torch.float64) + 0.5 if balanced else None
    given_all = (case.logits, labels, ranks, case.size)
    how = {"align_corners": corners, "weights": WEIGHTS, "class_weights": a}
    expected = reference_terms(*given_all, corners, WEIGHTS, a, over)
    for kernel in ("reference", "tiled"):
        ours = ld_terms(*given_all, **how, selected_mean_over=over, kernel=kernel)
        assert_terms(ours, expected)
    alone = negative_term(
        case.logits, ranks, case.size, align_corners=corners, weight=WEIGHTS.negative
    )
    assert alone.item() == pytest.approx(expected["negative"], rel=1e-10, abs=1e-12)


def test_the_two_readings_of_eq_3_differ_by_the_share_that_is_selected() -> None:
    logits, labels = random_logits(0, 2, 5, 3, 3), random_labels(0, 5, (2, 10, 10), 0.8)

    def selected(over: MeanOver) -> float:
        terms = ld_terms(
            logits,
            labels,
            torch.tensor(2),
            (10, 10),
            align_corners=False,
            weights=LdWeights(1.0, 0.0, 0.0),
            selected_mean_over=over,
        )
        return terms["selected"].item()

    share = float((labels != 255).double().mean())
    assert 0.1 < share < 0.3
    assert selected("all") == pytest.approx(share * selected("selected"), rel=1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    case=RANDOM_CASES,
    least=st.sampled_from([0.0, 0.5, 0.97, 1.0]),
    kernel=st.sampled_from(["reference", "tiled"]),
)
def test_the_confident_images_loss_equals_the_slow_loop_over_random_shapes(
    case: Case, least: float, kernel: Kernel
) -> None:
    shape = (case.batch, *case.size)
    labels = random_labels(case.seed, case.classes, shape, 0.0)
    confidence = torch.rand(shape, generator=torch.Generator().manual_seed(case.seed))
    confidence[confidence > 0.8] = 1.0
    shares = [
        sum(s >= least for s in image) / len(image) for image in confidence.flatten(1).tolist()
    ]
    scores = pixels(case.logits, case.size, case.align_corners)
    area, total = case.size[0] * case.size[1], 0.0
    for number, (z, label) in enumerate(zip(scores, labels.flatten().tolist(), strict=True)):
        total += shares[number // area] * -log_softmax(z)[label]
    ours = confident_images_cross_entropy(
        case.logits,
        labels,
        confidence,
        case.size,
        align_corners=case.align_corners,
        confident_from=least,
        kernel=kernel,
    )
    assert ours.dtype == torch.float64
    assert ours.item() == pytest.approx(total / len(scores), rel=1e-10, abs=1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=SEEDS,
    size=SIZES,
    width=st.integers(1, 4),
    weight=st.floats(1, 9),
    unlabelled=st.sampled_from([0.0, 0.5, 1.0]),
    classes=st.sampled_from([2, 5]),
)
def test_the_boundary_loss_equals_the_slow_loop_over_random_shapes(
    seed: int,
    size: Size,
    width: int,
    weight: float,
    unlabelled: float,
    classes: int,
) -> None:
    logits = random_logits(seed, 2, classes, 2, 3)
    labels = random_labels(seed, classes, (2, *size), unlabelled)
    labels[:, : size[0] // 2] = 0  # so that some pixels are far from every boundary
    near = reference_near(labels, width)
    assert torch.equal(near_boundary(labels, width), near)
    total = norm = 0.0
    flat = (tensor.flatten().tolist() for tensor in (labels, near))
    for z, label, is_near in zip(pixels(logits, size, False), *flat, strict=True):
        if label != 255:
            w = weight if is_near else 1.0
            total += w * -math.log(softmax(z)[label])
            norm += w
    ours = boundary_cross_entropy(
        logits,
        labels,
        size,
        align_corners=False,
        boundary_weight=weight,
        boundary_width=width,
    )
    assert ours.dtype == torch.float64
    assert ours.item() == pytest.approx(total / norm if norm else 0.0, rel=1e-10)


def test_boundaries_run_between_classes_and_not_along_unlabelled_pixels() -> None:
    labels = torch.tensor([[[3, 3, 3, 3, 3, 3, 3, 1, 1], [255] * 9]])
    expected = [[[0, 0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1, 1]]]
    assert near_boundary(labels, 2).int().tolist() == expected
    assert not near_boundary(labels[:, :, :7], 2).any()


# --- ranks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0, 1, 3, 40])
@pytest.mark.parametrize("classes", range(2, 31))
def test_a_rank_is_always_one_of_the_classes_and_never_the_first(classes: int, spread: int) -> None:
    torch.manual_seed(classes)
    ranks = complementary_ranks(classes, (2, 20, 25), spread, CPU)
    assert ranks.shape == (2, 20, 25)
    middle = classes // 2
    allowed = {min(max(middle + d, 2), classes) for d in range(-spread, spread + 1)}
    assert set(ranks.unique().tolist()) == allowed
    one = complementary_ranks(classes, (), spread, CPU)
    assert one.shape == ()
    assert int(one) in allowed


def test_ranks_are_uniform_and_come_from_the_global_generator() -> None:
    torch.manual_seed(1)
    ranks = complementary_ranks(19, (7, 100, 100), 3, CPU)
    counts = Counter(ranks.flatten().tolist())
    assert sorted(counts) == [6, 7, 8, 9, 10, 11, 12]
    assert all(abs(count - 10_000) < 500 for count in counts.values())  # five sigmas
    torch.manual_seed(1)
    assert torch.equal(complementary_ranks(19, (7, 100, 100), 3, CPU), ranks)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("ranked_below", [6, 7, 8, 9]), ("random", list(range(2, 20)))],
)
def test_one_sided_and_random_ranks_are_uniform_over_their_range(
    rule: Complementary, expected: list[int]
) -> None:
    torch.manual_seed(1)
    ranks = complementary_ranks(19, (7, 100, 100), 3, CPU, rule)
    counts = Counter(ranks.flatten().tolist())
    assert sorted(counts) == expected
    mean = 70_000 / len(expected)
    assert all(abs(count - mean) < 6 * math.sqrt(mean) for count in counts.values())


def test_a_random_complementary_label_is_any_class_but_the_likeliest_as_often() -> None:
    torch.manual_seed(3)
    scores = torch.tensor([0.1, 2.0, -1.0, 0.7, 0.3], dtype=torch.float64)
    ranks = complementary_ranks(5, (1, 200, 200), 3, CPU, "random")
    denied = scores.argsort(descending=True)[ranks - 1]
    counts = Counter(denied.flatten().tolist())
    assert sorted(counts) == [0, 2, 3, 4]  # class 1 is what the pixel is taken for
    assert all(abs(count - 10_000) < 500 for count in counts.values())


@pytest.mark.parametrize("rule", ["ranked_below", "random"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes_have_ranks_too(classes: int, rule: Complementary) -> None:
    drawn = complementary_ranks(classes, (1, 30, 30), 3, CPU, rule)
    assert int(drawn.min()) >= 2
    assert int(drawn.max()) <= classes


@pytest.mark.parametrize("classes", [2, 3, 19])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e4])
def test_what_a_pixel_is_not_never_has_more_than_half_of_the_probability(
    classes: int, scale: float
) -> None:
    # So the authors' clamp of 1 - p at 1e-5 never acts, and ours may do without.
    logits = random_logits(0, 2, classes, 9, 9, scale=scale).float().requires_grad_()
    labels = torch.zeros(2, 9, 9, dtype=torch.int64)
    ranks = torch.tensor(2)
    only = LdWeights(0.0, 0.0, 1.0)
    loss = ld_terms(logits, labels, ranks, (9, 9), align_corners=False, weights=only)["negative"]
    assert 0 <= loss.item() <= math.log(2) + 1e-6
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_ties_give_the_same_value_whichever_class_is_taken() -> None:
    logits = torch.zeros(1, 6, 2, 2, dtype=torch.float64)
    labels = torch.full((1, 2, 2), 255)
    for rank in range(2, 7):
        terms = ld_terms(
            logits, labels, torch.tensor(rank), (2, 2), align_corners=True, weights=ONES
        )
        assert terms["negative"].item() == pytest.approx(-math.log(5 / 6))


# --- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 2, 2, 2)], ids=str)
def test_gradient_of_the_sum_in_float64(shape: tuple[int, ...], align_corners: bool) -> None:
    logits = random_logits(3, *shape).requires_grad_()
    labels = random_labels(3, shape[1], (shape[0], 5, 6), 0.4)
    torch.manual_seed(0)
    ranks = complementary_ranks(shape[1], (shape[0], 5, 6), 3, CPU)

    def total(z: Tensor) -> Tensor:
        terms = ld_terms(z, labels, ranks, (5, 6), align_corners=align_corners, weights=WEIGHTS)
        boundary = boundary_cross_entropy(
            z, labels, (5, 6), align_corners=align_corners, boundary_weight=3, boundary_width=1
        )
        return torch.stack([*terms.values(), boundary]).sum()

    assert torch.autograd.gradcheck(total, (logits,))


@pytest.mark.parametrize("balanced", [False, True])
def test_nothing_selected_gives_zero_and_zero_gradient(balanced: bool) -> None:
    logits = random_logits(0, 2, 4, 3, 3).requires_grad_()
    nothing = torch.full((2, 6, 6), 255)
    a = torch.ones(4, dtype=torch.float64) if balanced else None
    only = LdWeights(1.0, 0.0, 0.0)
    terms = ld_terms(
        logits,
        nothing,
        torch.tensor(2),
        (6, 6),
        align_corners=False,
        weights=only,
        class_weights=a,
    )
    boundary = boundary_cross_entropy(
        logits, nothing, (6, 6), align_corners=False, boundary_weight=9.0, boundary_width=2
    )
    for loss in (terms["selected"], boundary):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.item() == 0
        assert gradient.abs().sum() == 0


# --- weights, widths, errors --------------------------------------------------------------------


@pytest.mark.parametrize("term", ["selected", "entropy", "negative"])
def test_a_weight_of_0_leaves_its_term_out_and_doubling_it_doubles_the_term(term: str) -> None:
    logits, labels = random_logits(0, 2, 5, 3, 3), random_labels(0, 5, (2, 6, 6), 0.5)
    whole = {"selected": 1.0, "entropy": 1.0, "negative": 1.0}

    def terms(**weights: float) -> dict[str, Tensor]:
        w = LdWeights(**(whole | weights))
        return ld_terms(logits, labels, torch.tensor(3), (6, 6), align_corners=False, weights=w)

    ones = terms()
    assert terms(**{term: 0.0}) == {n: value for n, value in ones.items() if n != term}
    torch.testing.assert_close(terms(**{term: 2.0})[term], 2 * ones[term])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_narrow_logits_give_float32_terms_near_those_in_float64(dtype: torch.dtype) -> None:
    logits, labels = random_logits(0, 2, 5, 3, 3).to(dtype), random_labels(0, 5, (2, 6, 6), 0.5)
    both = [
        ld_terms(z, labels, torch.tensor(3), (6, 6), align_corners=False, weights=ONES)
        for z in (logits, logits.double())
    ]
    for name, wide in both[1].items():
        assert both[0][name].dtype == torch.float32
        assert both[0][name].item() == pytest.approx(wide.item(), rel=1e-5)


def test_logits_of_ten_thousand_give_finite_terms_and_gradients() -> None:
    logits = random_logits(0, 2, 5, 3, 3, scale=1e4).float().requires_grad_()
    labels = random_labels(0, 5, (2, 6, 6), 0.5)
    terms = ld_terms(logits, labels, torch.tensor(3), (6, 6), align_corners=False, weights=ONES)
    assert all(term.isfinite() for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_shapes_that_disagree_are_named() -> None:
    logits, labels = random_logits(0, 2, 5, 3, 3), random_labels(0, 5, (2, 6, 6), 0.5)
    ranks = torch.full((2, 6, 6), 2)

    def terms(z: Tensor, y: Tensor, k: Tensor) -> None:
        ld_terms(z, y, k, (6, 6), align_corners=False, weights=ONES)

    with pytest.raises(ShapeError, match=r"labels must be .*\(2, 6, 6\), got \(2, 6, 5\)"):
        terms(logits, labels[:, :, :5], ranks)
    with pytest.raises(ShapeError, match=r"ranks must be .*\(2, 6, 6\), got \(1, 6, 6\)"):
        terms(logits, labels, ranks[:1])
    with pytest.raises(ShapeError, match=r"logits must be floating \(B, K, h, w\)"):
        terms(logits[0], labels, ranks)
    with pytest.raises(ShapeError, match="labels must be"):
        boundary_cross_entropy(
            logits, labels, (5, 6), align_corners=False, boundary_weight=2, boundary_width=1
        )
