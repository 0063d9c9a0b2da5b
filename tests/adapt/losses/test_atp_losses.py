"""ATP's and DAS3's terms against plain loops over pixels and classes in float64, gradients, edges.

The reference below shares no code with the package: upsampling and softmax of `loss_cases`, and its
own entropy and cross-entropy, one pixel and one class at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from loss_cases import (
    BATCHES,
    CLASSES,
    GRIDS,
    SEEDS,
    SIZES,
    Pixel,
    Size,
    assert_terms,
    log_softmax,
    pixels,
    random_labels,
    random_logits,
)
from roadshift.adapt.losses.atp import (
    AlignWeights,
    align_terms,
    divergence_from,
    regional_contrast,
    soft_cross_entropy,
    teach_terms,
)
from roadshift.adapt.losses.backends.reference import confident_mass, normalised_pixel_entropy
from roadshift.adapt.losses.baselines import pseudo_label_terms
from roadshift.adapt.losses.ld import LdWeights, ld_terms
from roadshift.runtime.errors import ShapeError
from torch import Tensor

PAPER = AlignWeights(entropy=0.002, diversity=1.0, focus=3.0, sharpness=3.0)
ONES = AlignWeights(1.0, 1.0, 3.0, 3.0)
CASES = settings(max_examples=30, deadline=None, derandomize=True)
Shape = tuple[int, int, int, int]


def consistency(log_p: Tensor, target: Tensor) -> Tensor:
    return soft_cross_entropy(log_p, target, at_pixels(log_p), align_corners=True)


def divergence(log_p: Tensor, target: Tensor) -> Tensor:
    return divergence_from(log_p, target, at_pixels(log_p), align_corners=True)


def at_pixels(values: Tensor) -> Size:
    height, width = values.shape[2:]
    return height, width


# --- the reference ------------------------------------------------------------------------------


def entropy(log_p: Pixel) -> float:
    """Normalised, of one pixel."""
    return -sum(math.exp(v) * v for v in log_p) / math.log(len(log_p))


def reference_align(
    logits: Tensor,
    size: Size,
    *,
    align_corners: bool,
    weights: AlignWeights,
    per_weight: bool = True,
    per_image: bool = False,
    over_log_classes: bool = False,
    detach_weight: bool = False,
    detach_focus: bool = False,
    at: Tensor | None = None,
) -> dict[str, float]:
    """Equations 2 and 3; what is detached is that of the logits ``at``."""
    options: dict[str, Any] = {"align_corners": align_corners, "weights": weights}
    options |= {"per_weight": per_weight, "over_log_classes": over_log_classes}
    options |= {"detach_weight": detach_weight, "detach_focus": detach_focus}
    if per_image:
        each = [
            reference_align(
                logits[i : i + 1], size, **options, at=None if at is None else at[i : i + 1]
            )
            for i in range(len(logits))
        ]
        return {name: sum(one[name] for one in each) / len(each) for name in each[0]}
    scale = math.log(logits.shape[1]) if over_log_classes else 1.0
    here = [log_softmax(z) for z in pixels(logits, size, align_corners)]
    there = here if at is None else [log_softmax(z) for z in pixels(at, size, align_corners)]
    entropy_sum = weight_sum = 0.0
    p_sum = [0.0] * logits.shape[1]
    for log_p, constant in zip(here, there, strict=True):
        h, h_constant = entropy(log_p), entropy(constant)
        entropy_sum += (1 - (h_constant if detach_focus else h)) ** weights.focus * h
        w = math.exp(-weights.sharpness * (h_constant if detach_weight else h))
        weight_sum += w
        for c, value in enumerate(log_p):
            p_sum[c] += w * math.exp(value)
    p_hat = [total / (weight_sum if per_weight else len(here)) for total in p_sum]
    return {
        "entropy": weights.entropy * entropy_sum / len(here),
        "diversity": weights.diversity * sum(p * math.log(p) for p in p_hat if p > 0) / scale,
    }


def reference_teach(
    logits: Tensor,
    labels: Tensor,
    size: Size,
    *,
    align_corners: bool,
    positive: float = 1.0,
    negative: float = 1.0,
    negative_below: float = 0.05,
    negative_jointly: bool = False,
) -> dict[str, float]:
    """Equations 5 to 7; jointly, that no class below the threshold is the pixel's."""
    positive_sum = negative_sum = 0.0
    labelled = 0
    scores = pixels(logits, size, align_corners)
    for z, y in zip(scores, labels.flatten().tolist(), strict=True):
        log_p = log_softmax(z)
        if y != 255:
            labelled += 1
            positive_sum += -log_p[y]
        unlikely = [math.exp(value) for value in log_p if math.exp(value) < negative_below]
        if not negative_jointly:
            negative_sum += sum(-math.log1p(-p) for p in unlikely)
        elif len(unlikely) < len(log_p):
            negative_sum += -math.log(sum(math.exp(v) for v in log_p) - math.fsum(unlikely))
    return {
        "positive": positive * positive_sum / max(1, labelled),
        "negative": negative * negative_sum / len(scores),
    }


# --- what goes in -------------------------------------------------------------------------------

KINDS = ("typical", "ties", "saturated", "single_class", "uniform")


def logits_of_kind(seed: int, shape: Shape, kind: str) -> Tensor:
    """(B, K, h, w) in float64."""
    z = random_logits(seed, *shape)
    if kind == "ties":
        return z.round()
    if kind == "saturated":
        return 50 * z.sign()
    if kind == "single_class":
        z[:, seed % shape[1]] += 50
        return z
    return torch.zeros_like(z) if kind == "uniform" else z


def random_distribution(seed: int, shape: Shape) -> Tensor:
    """Rows that sum to 1, half of their entries 0."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.rand(shape, generator=generator, dtype=torch.float64)
    q = q * (torch.rand(shape, generator=generator) < 0.5)
    q[:, 0] += 0.1
    return q / q.sum(dim=1, keepdim=True)


shapes = st.builds(lambda batch, classes, grid: (batch, classes, *grid), BATCHES, CLASSES, GRIDS)


# --- values -------------------------------------------------------------------------------------


@CASES
@given(
    seed=SEEDS,
    shape=shapes,
    size=SIZES,
    kind=st.sampled_from(KINDS),
    focus=st.sampled_from([0.0, 0.5, 3.0, 5.0]),
    sharpness=st.sampled_from([0.0, 3.0]),
    switches=st.fixed_dictionaries(
        dict.fromkeys(
            (
                "align_corners",
                "per_weight",
                "per_image",
                "over_log_classes",
                "detach_weight",
                "detach_focus",
            ),
            st.booleans(),
        )
    ),
)
def test_align_equals_the_slow_loop_over_random_shapes(
    seed: int,
    shape: Shape,
    size: Size,
    kind: str,
    focus: float,
    sharpness: float,
    switches: dict[str, bool],
) -> None:
    logits, weights = logits_of_kind(seed, shape, kind), AlignWeights(0.3, 0.7, focus, sharpness)
    options: dict[str, Any] = {"weights": weights, **switches}
    # Rounding in 1 - h is magnified by a power below 1 near h = 1.
    assume(not (focus == 0.5 and kind == "uniform"))
    assert_terms(align_terms(logits, size, **options), reference_align(logits, size, **options))


@CASES
@given(
    seed=SEEDS,
    shape=shapes,
    size=SIZES,
    kind=st.sampled_from(KINDS),
    align_corners=st.booleans(),
    below=st.sampled_from([0.05, 0.3, 0.9]),
    jointly=st.booleans(),
)
def test_teach_equals_the_slow_loop_over_random_shapes(
    seed: int,
    shape: Shape,
    size: Size,
    kind: str,
    align_corners: bool,
    below: float,
    jointly: bool,
) -> None:
    logits = logits_of_kind(seed, shape, kind)
    labels = random_labels(seed, shape[1], (shape[0], *size))
    options: dict[str, Any] = {
        "align_corners": align_corners,
        "positive": 0.3,
        "negative": 0.7,
        "negative_below": below,
        "negative_jointly": jointly,
    }
    ours = teach_terms(logits, labels, size, **options)
    assert_terms(ours, reference_teach(logits, labels, size, **options))


@CASES
@given(seed=SEEDS, shape=shapes, kind=st.sampled_from(KINDS))
def test_soft_cross_entropy_and_divergence_equal_the_slow_loop(
    seed: int, shape: Shape, kind: str
) -> None:
    logits, target = logits_of_kind(seed, shape, kind), random_distribution(seed + 1, shape)
    cross = own = 0.0
    scores = pixels(logits, shape[2:], True)
    for z, q in zip(scores, target.permute(0, 2, 3, 1).reshape(-1, shape[1]).tolist(), strict=True):
        for log_p, share in zip(log_softmax(z), q, strict=True):
            cross += -share * log_p
            own += -share * math.log(share) if share > 0 else 0.0
    log_p = logits.log_softmax(dim=1)
    ours = {"soft": consistency(log_p, target), "kl": divergence(log_p, target)}
    count = len(scores)
    assert_terms(ours, {"soft": cross / count, "kl": (cross - own) / count})
    assert ours["kl"].item() >= -1e-12


@CASES
@given(seed=SEEDS, shape=shapes, kind=st.sampled_from(KINDS), weighted=st.booleans())
def test_labelled_cross_entropy_equals_the_slow_loop(
    seed: int, shape: Shape, kind: str, weighted: bool
) -> None:
    logits = logits_of_kind(seed, shape, kind)
    labels = random_labels(seed, shape[1], (shape[0], *shape[2:]))
    weights = torch.linspace(0.5, 3, shape[1], dtype=torch.float64) if weighted else None
    total, labelled = 0.0, 0
    for z, y in zip(pixels(logits, shape[2:], True), labels.flatten().tolist(), strict=True):
        if y != 255:
            labelled += 1
            total += -log_softmax(z)[y] * (1.0 if weights is None else weights[y].item())
    ours = ld_terms(
        logits,
        labels,
        torch.tensor(2),
        shape[2:],
        align_corners=True,
        weights=LdWeights(selected=1.0, entropy=0.0, negative=0.0),
        class_weights=weights,
    )
    assert_terms(ours, {"selected": total / max(1, labelled)})


@CASES
@given(seed=SEEDS, shape=shapes, kind=st.sampled_from(KINDS))
def test_cross_entropy_of_weighted_pixels_equals_the_slow_loop(
    seed: int, shape: Shape, kind: str
) -> None:
    logits = logits_of_kind(seed, shape, kind)
    labels = random_labels(seed, shape[1], (shape[0], *shape[2:]))
    weights = torch.rand(
        labels.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    total, labelled = 0.0, 0
    of_pixels = zip(labels.flatten().tolist(), weights.flatten().tolist(), strict=True)
    for z, (y, w) in zip(pixels(logits, shape[2:], True), of_pixels, strict=True):
        if y != 255:
            labelled += 1
            total += w * -log_softmax(z)[y]
    ours = pseudo_label_terms(logits, labels, shape[2:], align_corners=True, pixel_weights=weights)
    assert_terms(ours, {"pseudo_label": total / max(1, labelled)})


def test_diversity_of_each_image_is_not_that_of_the_batch() -> None:
    logits = torch.zeros(2, 3, 1, 1, dtype=torch.float64)
    logits[0, 0] = logits[1, 1] = 50  # each sure of one class, another one each
    how: dict[str, Any] = {"align_corners": False, "weights": ONES}
    batch = align_terms(logits, (1, 1), **how)["diversity"]
    each = align_terms(logits, (1, 1), **how, per_image=True)["diversity"]
    assert batch.item() == pytest.approx(-math.log(2))
    assert each.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("classes", [19, 33])
def test_a_pixel_all_of_whose_classes_are_unlikely_says_nothing_jointly(classes: int) -> None:
    logits = torch.zeros(1, classes, 1, 1, dtype=torch.float64).requires_grad_()
    labels = torch.full((1, 1, 1), 255)
    how: dict[str, Any] = {"align_corners": False, "negative_below": 0.04}
    term = teach_terms(logits, labels, (1, 1), **how, negative_jointly=True)["negative"]
    (gradient,) = torch.autograd.grad(term, logits)
    assert term.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-12


def test_divergence_is_0_from_itself_and_cross_entropy_from_labels() -> None:
    log_p = random_logits(0, 2, 4, 3, 5).log_softmax(dim=1)
    assert divergence(log_p, log_p.exp()).item() == pytest.approx(0, abs=1e-12)
    labels = torch.randint(0, 4, (2, 3, 5))
    one_hot = F.one_hot(labels, 4).permute(0, 3, 1, 2).double()
    torch.testing.assert_close(divergence(log_p, one_hot), F.nll_loss(log_p, labels))


def test_divergence_leaves_out_pixels_without_a_distribution() -> None:
    logits = random_logits(1, 2, 4, 3, 5).requires_grad_()
    log_p, labels = logits.log_softmax(dim=1), random_labels(1, 4, (2, 3, 5))
    target = F.one_hot(labels.where(labels != 255, 4), 5)[..., :4].permute(0, 3, 1, 2).double()
    expected = F.nll_loss(log_p, labels, ignore_index=255)
    torch.testing.assert_close(divergence(log_p, target), expected)
    nothing = divergence(log_p, torch.zeros_like(target))
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, logits)[0].abs().sum() == 0


# --- entropy and the distribution ---------------------------------------------------------------


@CASES
@given(
    seed=SEEDS,
    shape=shapes,
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_normalised_entropy_never_leaves_0_to_1(
    seed: int, shape: Shape, kind: str, dtype: torch.dtype, scale: float
) -> None:
    logits = (scale * logits_of_kind(seed, shape, kind)).to(dtype)
    h = normalised_pixel_entropy(logits.log_softmax(dim=1))
    assert h.dtype == dtype
    assert h.shape == (shape[0], *shape[2:])
    assert bool(((h >= 0) & (h <= 1)).all())


@pytest.mark.parametrize("classes", [2, 13, 19])
def test_entropy_is_1_without_an_opinion_and_0_when_certain(classes: int) -> None:
    none = torch.zeros(1, classes, 1, 1)
    certain = none.clone()
    certain[:, 1] = 200
    assert normalised_pixel_entropy(none.log_softmax(dim=1)).item() == pytest.approx(1, abs=1e-6)
    assert normalised_pixel_entropy(certain.log_softmax(dim=1)).item() == 0


@CASES
@given(seed=SEEDS, shape=shapes, kind=st.sampled_from(KINDS), sharpness=st.floats(0, 10))
def test_the_papers_p_hat_is_a_distribution_and_the_authors_sums_to_the_mean_weight(
    seed: int, shape: Shape, kind: str, sharpness: float
) -> None:
    log_p = logits_of_kind(seed, shape, kind).log_softmax(dim=1)
    total, mass = confident_mass(log_p, sharpness, detach_weight=False)
    paper, authors = mass / total, mass / log_p[:, 0].numel()
    assert paper.sum().item() == pytest.approx(1, abs=1e-12)
    mean_weight = (-sharpness * normalised_pixel_entropy(log_p)).exp().mean().item()
    assert authors.sum().item() == pytest.approx(mean_weight, rel=1e-12)
    assert bool((authors <= paper + 1e-12).all())


def test_the_authors_p_hat_does_not_sum_to_1_where_anything_is_uncertain() -> None:
    log_p = random_logits(0, 2, 4, 3, 5).log_softmax(dim=1)
    _, mass = confident_mass(log_p, 3.0, detach_weight=True)
    assert (mass / log_p[:, 0].numel()).sum().item() < 0.9


# --- gradients ----------------------------------------------------------------------------------


def numeric_gradient(function: Callable[[Tensor], float], at: Tensor) -> Tensor:
    """Central differences of ``function`` in every entry of ``at``."""
    gradient = torch.empty_like(at)
    for i in range(at.numel()):
        step = torch.zeros_like(at)
        step.view(-1)[i] = 1e-5
        gradient.view(-1)[i] = (function(at + step) - function(at - step)) / 2e-5
    return gradient


@pytest.mark.parametrize("align_corners", [True, False], ids=["corners", "centres"])
@pytest.mark.parametrize("name", ["entropy", "diversity"])
@pytest.mark.parametrize("per_weight", [True, False], ids=["paper", "reference"])
def test_gradient_of_each_align_term(name: str, per_weight: bool, align_corners: bool) -> None:
    logits = random_logits(1, 2, 4, 2, 3).requires_grad_()

    def term(z: Tensor) -> Tensor:
        options: dict[str, Any] = {"weights": ONES, "per_weight": per_weight}
        return align_terms(z, (4, 5), align_corners=align_corners, **options)[name]

    assert torch.autograd.gradcheck(term, logits)


@pytest.mark.parametrize("jointly", [False, True])
@pytest.mark.parametrize("name", ["positive", "negative"])
def test_gradient_of_each_teach_term(name: str, jointly: bool) -> None:
    logits = random_logits(2, 2, 4, 2, 3).requires_grad_()
    labels = random_labels(2, 4, (2, 4, 5))
    how: dict[str, Any] = {"align_corners": False, "negative_jointly": jointly}
    how["negative_below"] = 0.2 if jointly else 0.05

    def term(z: Tensor) -> Tensor:
        return teach_terms(z, labels, (4, 5), **how)[name]

    assert term(logits).item() > 0
    assert torch.autograd.gradcheck(term, logits)


@pytest.mark.parametrize("loss", [consistency, divergence])
def test_gradient_of_the_soft_terms(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits = random_logits(3, 2, 4, 2, 3).requires_grad_()
    target = random_distribution(3, (2, 4, 2, 3))
    assert torch.autograd.gradcheck(lambda z: loss(z.log_softmax(dim=1), target), logits)


@pytest.mark.parametrize("switch", ["detach_weight", "detach_focus"])
def test_what_is_detached_is_a_constant_of_the_gradient(switch: str) -> None:
    logits = random_logits(4, 1, 3, 2, 3).requires_grad_()
    name = "entropy" if switch == "detach_focus" else "diversity"
    options: dict[str, Any] = {"align_corners": False, "weights": ONES}
    gradients = {}
    for detach in (False, True):
        term = align_terms(logits, (3, 4), **options, **{switch: detach})[name]
        (gradients[detach],) = torch.autograd.grad(term, logits)

    def slow(z: Tensor) -> float:
        frozen = {switch: True, "at": logits.detach()}
        return reference_align(z, (3, 4), **options, **frozen)[name]

    expected = numeric_gradient(slow, logits.detach())
    torch.testing.assert_close(gradients[True], expected, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(gradients[True], gradients[False], rtol=1e-2)


@CASES
@given(margin=st.floats(0.05, 8), focus=st.floats(0.5, 6))
def test_eq_2_raises_the_entropy_above_one_over_gamma_plus_1_unless_the_focus_is_detached(
    margin: float, focus: float
) -> None:
    logits = torch.tensor([margin, 0.0], dtype=torch.float64)[None, :, None, None]
    logits.requires_grad_()
    h = normalised_pixel_entropy(logits.log_softmax(dim=1)).item()
    assume(abs(h - 1 / (focus + 1)) > 1e-6)
    raises = {}
    for detach in (False, True):
        weights = AlignWeights(1.0, 0.0, focus, 3.0)
        term = align_terms(
            logits, (1, 1), align_corners=False, weights=weights, detach_focus=detach
        )["entropy"]
        (gradient,) = torch.autograd.grad(term, logits)
        raises[detach] = gradient[0, 0].item() > 0  # a step down its slope shrinks the margin
    assert raises == {False: h > 1 / (focus + 1), True: False}


# --- no term gives NaN --------------------------------------------------------------------------


@CASES
@given(
    seed=SEEDS,
    shape=shapes,
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    scale=st.sampled_from([1.0, 1e3]),
    focus=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    labelled=st.booleans(),
)
def test_values_and_gradients_are_finite_for_any_logits(
    seed: int,
    shape: Shape,
    kind: str,
    dtype: torch.dtype,
    scale: float,
    focus: float,
    labelled: bool,
) -> None:
    logits = (scale * logits_of_kind(seed, shape, kind)).to(dtype).requires_grad_()
    size = (shape[2], shape[3])
    labels = random_labels(seed, shape[1], (shape[0], *size))
    labels = labels if labelled else torch.full_like(labels, 255)
    log_p, target = logits.log_softmax(dim=1), random_distribution(seed, shape).to(dtype)
    weights = AlignWeights(1.0, 1.0, focus, 3.0)
    terms = {
        **align_terms(logits, size, align_corners=False, weights=weights),
        **teach_terms(logits, labels, size, align_corners=False),
        "soft": consistency(log_p, target),
        "kl": divergence(log_p, target),
    }
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, logits, retain_graph=True)
        assert bool(term.isfinite()), name
        assert bool(gradient.isfinite().all()), name


def test_a_certain_pixel_learns_nothing_from_negative_labels_and_keeps_others_learning() -> None:
    logits = torch.zeros(1, 3, 1, 2, requires_grad=True)
    with torch.no_grad():
        logits[0, 0, 0] = torch.tensor([500.0, 3.5])  # p is exactly 1, and about 0.94
    terms = teach_terms(logits, torch.full((1, 1, 2), 255), (1, 2), align_corners=False, positive=0)
    (gradient,) = torch.autograd.grad(terms["negative"], logits)
    assert gradient[..., 0].abs().max() == 0
    assert gradient[..., 1].abs().min() > 0


# --- edges --------------------------------------------------------------------------------------


def test_no_label_gives_zero_and_zero_gradient() -> None:
    logits = random_logits(5, 2, 4, 3, 3).requires_grad_()
    term = teach_terms(logits, torch.full((2, 3, 3), 255), (3, 3), align_corners=False)["positive"]
    (gradient,) = torch.autograd.grad(term, logits)
    assert term.item() == 0
    assert gradient.abs().sum() == 0


@pytest.mark.parametrize("loss", ["labels", "soft"])
def test_no_image_gives_zero_and_can_be_differentiated(loss: str) -> None:
    logits = torch.zeros(0, 4, 3, 3, requires_grad=True)
    if loss == "labels":
        labels = torch.zeros(0, 3, 3, dtype=torch.int64)
        term = pseudo_label_terms(logits, labels, (3, 3), align_corners=False)["pseudo_label"]
    else:
        term = consistency(logits.log_softmax(dim=1), torch.zeros(0, 4, 3, 3))
    assert term.item() == 0
    term.backward()


def test_a_term_of_weight_0_is_left_out_and_the_other_stays() -> None:
    logits, labels = random_logits(6, 2, 4, 3, 3), random_labels(6, 4, (2, 5, 7))
    whole = align_terms(logits, (5, 7), align_corners=False, weights=ONES)
    for i, name in enumerate(whole):
        weights = [1.0, 1.0, 3.0, 3.0]
        weights[i] = 0
        rest = align_terms(logits, (5, 7), align_corners=False, weights=AlignWeights(*weights))
        assert rest == {key: value for key, value in whole.items() if key != name}
    both = teach_terms(logits, labels, (5, 7), align_corners=False)
    for name in both:
        rest = teach_terms(logits, labels, (5, 7), align_corners=False, **{name: 0.0})
        assert rest == {key: value for key, value in both.items() if key != name}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_logits_give_float32_close_to_float64(dtype: torch.dtype) -> None:
    logits, size = random_logits(7, 2, 5, 3, 4).to(dtype), (6, 7)
    labels = random_labels(7, 5, (2, *size))
    ours = {
        **align_terms(logits, size, align_corners=False, weights=PAPER),
        **teach_terms(logits, labels, size, align_corners=False),
    }
    wide = logits.double()
    exact = {
        **reference_align(wide, size, align_corners=False, weights=PAPER),
        **reference_teach(wide, labels, size, align_corners=False),
    }
    for name, value in exact.items():
        assert ours[name].dtype == torch.float32
        assert ours[name].item() == pytest.approx(value, rel=1e-5), name


def test_autocast_changes_nothing() -> None:
    logits, size = random_logits(8, 2, 5, 3, 4).float(), (6, 7)
    labels = random_labels(8, 5, (2, *size))

    def terms() -> dict[str, Tensor]:
        torch.manual_seed(0)
        confidence = torch.full((2, *size), 0.5)
        r = F.interpolate(logits, size)
        return {
            **align_terms(logits, size, align_corners=False, weights=PAPER),
            **teach_terms(logits, labels, size, align_corners=False),
            "contrast": regional_contrast(r, labels, confidence, queries=8, keys=8),
        }

    plain = terms()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert terms() == plain


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 1, 3, 4)])
def test_shapes_that_are_no_logits_are_named(shape: tuple[int, ...]) -> None:
    for where, call in {
        "align_terms": lambda z: align_terms(z, (6, 7), align_corners=False, weights=PAPER),
        "teach_terms": lambda z: teach_terms(
            z, torch.zeros(2, 6, 7, dtype=torch.int64), (6, 7), align_corners=False
        ),
    }.items():
        with pytest.raises(ShapeError, match=rf"{where}: logits .* K >= 2, got"):
            call(torch.zeros(shape))


def test_labels_of_another_size_are_named() -> None:
    labels = torch.zeros(2, 6, 6, dtype=torch.int64)
    with pytest.raises(ShapeError, match=r"labels .* \(2, 6, 7\), got \(2, 6, 6\)"):
        teach_terms(torch.zeros(2, 5, 3, 4), labels, (6, 7), align_corners=False)


# --- regional contrast --------------------------------------------------------------------------


def one_hard_pixel(
    seed: int, depth: int, size: Size
) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """Representation, labels and confidence that leave nothing to chance.

    Class 0 has one unsure pixel; class 1, sure throughout, one and the same direction.
    """
    generator = torch.Generator().manual_seed(seed)
    r = torch.randn(1, depth, *size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (1, *size), generator=generator)
    labels[0, 0, 0], labels[0, -1, -1] = 0, 1
    lengths = 0.5 + torch.rand(size, generator=generator, dtype=torch.float64)
    r[0, :, labels[0] == 1] = (r[0, :, -1, -1, None, None] * lengths)[:, labels[0] == 1]
    unlabelled = torch.rand(labels.shape, generator=generator) < 0.2
    unlabelled[0, 0, 0] = unlabelled[0, -1, -1] = False
    labels[unlabelled] = 255
    confidence = torch.ones(1, *size, dtype=torch.float64)
    confidence[unlabelled] = 0.0  # of no class: neither query nor key
    confidence[0, 0, 0] = 0.96
    return r, labels, confidence, (0, 0)


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in vector))
    return [v / length for v in vector]


def dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def mean_direction(r: Tensor, labels: Tensor, c: int) -> list[float]:
    """m_c, a pixel at a time."""
    members = [unit(r[b, :, y, x].tolist()) for b, y, x in (labels == c).nonzero().tolist()]
    return unit([sum(column) / len(members) for column in zip(*members, strict=True)])


@CASES
@given(
    seed=SEEDS,
    depth=st.integers(2, 9),
    size=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    keys=st.integers(1, 20),
    temperature=st.sampled_from([0.1, 0.5, 2.0]),
)
def test_regional_contrast_equals_the_slow_loop(
    seed: int, depth: int, size: Size, keys: int, temperature: float
) -> None:
    r, labels, confidence, (y, x) = one_hard_pixel(seed, depth, size)
    query, other = unit(r[0, :, y, x].tolist()), unit(r[0, :, -1, -1].tolist())
    near = math.exp(dot(query, mean_direction(r, labels, 0)) / temperature)
    far = math.exp(dot(query, other) / temperature)
    ours = regional_contrast(r, labels, confidence, queries=3, keys=keys, temperature=temperature)
    assert ours.dtype == torch.float64
    assert ours.item() == pytest.approx(-math.log(near / (near + keys * far)), rel=1e-9)


def test_only_queries_get_a_gradient_and_it_takes_means_and_keys_as_constants() -> None:
    r, labels, confidence, (y, x) = one_hard_pixel(3, 4, (4, 5))
    constant = torch.tensor(mean_direction(r, labels, 0), dtype=torch.float64)
    other = F.normalize(r[0, :, -1, -1], dim=0)
    r.requires_grad_()
    (gradient,) = torch.autograd.grad(
        regional_contrast(r, labels, confidence, queries=5, keys=7), r
    )

    def slow(vector: Tensor) -> float:
        query = unit(vector.tolist())
        near = math.exp(dot(query, constant.tolist()) / 0.5)
        far = math.exp(dot(query, other.tolist()) / 0.5)
        return -math.log(near / (near + 7 * far))

    expected = torch.zeros_like(gradient)
    expected[0, :, y, x] = numeric_gradient(slow, r.detach()[0, :, y, x])
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_every_unsure_pixel_is_a_query_and_no_sure_one() -> None:
    generator = torch.Generator().manual_seed(0)
    r = torch.randn(2, 6, 5, 5, generator=generator, requires_grad=True)
    labels = random_labels(0, 3, (2, 5, 5))
    confidence = torch.rand(2, 5, 5, generator=generator)
    (gradient,) = torch.autograd.grad(
        regional_contrast(r, labels, confidence, queries=256, keys=4, easy_above=0.5), r
    )
    queried = gradient.abs().sum(dim=1) > 0
    assert torch.equal(queried, (confidence < 0.5) & (labels != 255))


def test_keys_come_from_classes_as_often_as_these_resemble_the_querys() -> None:
    r = torch.zeros(1, 2, 1, 3, dtype=torch.float64)
    angles = [0.0, 0.6, 2.5]  # of classes 0, 1 and 2, one pixel each
    for c, angle in enumerate(angles):
        r[0, :, 0, c] = torch.tensor([math.cos(angle), math.sin(angle)])
    confidence = torch.tensor([[[0.5, 1.0, 1.0]]])
    near, *others = (math.exp(math.cos(angle) / 0.5) for angle in angles)
    share = [other / sum(others) for other in others]
    far = sum(s * other for s, other in zip(share, others, strict=True))
    expected = -math.log(near / (near + 512 * far))
    torch.manual_seed(0)
    ours = regional_contrast(r, torch.tensor([[[0, 1, 2]]]), confidence)
    assert ours.item() == pytest.approx(expected, rel=1e-3)


def test_the_mean_is_over_the_classes_that_have_queries() -> None:
    r, labels, sure, _ = one_hard_pixel(1, 4, (4, 4))
    sure = torch.ones_like(sure)
    r[0, :, labels[0] == 0] = r[0, :, :1, 0]  # both classes of one direction: nothing is drawn
    values = []
    for classes in ([0], [1], [0, 1]):
        confidence = sure.masked_fill(torch.isin(labels, torch.tensor(classes)), 0.5)
        values.append(regional_contrast(r, labels, confidence, queries=2, keys=3).item())
    assert values[2] == pytest.approx((values[0] + values[1]) / 2)
    assert values[0] == pytest.approx(values[1])  # by symmetry
    assert values[0] > 0.1


@pytest.mark.parametrize("case", ["no label", "one class", "all sure"])
def test_nothing_to_contrast_gives_zero_and_zero_gradient(case: str) -> None:
    r = torch.randn(2, 6, 3, 3, requires_grad=True)
    labels = torch.randint(0, 3, (2, 3, 3))
    confidence = torch.zeros(2, 3, 3)
    if case == "no label":
        labels[:] = 255
    elif case == "one class":
        labels[:] = 2
        labels[0] = 255
    else:
        confidence[:] = 0.97
    loss = regional_contrast(r, labels, confidence)
    (gradient,) = torch.autograd.grad(loss, r)
    assert loss.item() == 0
    assert gradient.abs().sum() == 0


def test_the_same_seed_draws_the_same_pixels() -> None:
    r, labels = torch.randn(2, 6, 5, 5), torch.randint(0, 3, (2, 5, 5))
    confidence = torch.rand(2, 5, 5)
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(regional_contrast(r, labels, confidence, queries=4, keys=4).item())
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_representation_that_is_not_finite_gives_nan_not_an_exception(value: float) -> None:
    r, labels = torch.randn(1, 6, 4, 4), torch.randint(0, 3, (1, 4, 4))
    r[0, 0, 1, 2] = value
    assert regional_contrast(r, labels, torch.zeros(1, 4, 4)).isnan()


def test_a_half_precision_representation_gives_float32() -> None:
    r, labels = torch.randn(1, 6, 4, 4).half(), torch.randint(0, 3, (1, 4, 4))
    torch.manual_seed(0)
    narrow = regional_contrast(r, labels, torch.zeros(1, 4, 4), queries=8, keys=8)
    torch.manual_seed(0)
    wide = regional_contrast(r.double(), labels, torch.zeros(1, 4, 4), queries=8, keys=8)
    assert narrow.dtype == torch.float32
    assert narrow.item() == pytest.approx(wide.item(), rel=1e-5)
