"""IAPC's terms against plain loops over pixels and classes in float64, their gradients, edges.

The reference below shares no code with the package: upsampling and softmax of `loss_cases`, and its
own argmax and cross-entropy, one pixel and one class at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
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
    pixels,
    random_labels,
    softmax,
)
from roadshift.adapt.losses.backends.reference import importance_map, pixel_entropy
from roadshift.adapt.losses.common import at_least_float32, upsample
from roadshift.adapt.losses.iapc import IapcWeights, iapc_terms
from roadshift.runtime.errors import ShapeError
from torch import Tensor

KINDS = ("margin_ratio", "none", "first", "one_minus_second")
WEIGHTS = IapcWeights(importance=0.2, agreement=0.5, prototype=0.04, entropy=2.0)
ONES = IapcWeights(1.0, 1.0, 1.0, 1.0)
EXACT = {"rtol": 1e-10, "atol": 1e-10}


# --- the reference ------------------------------------------------------------------------------


def argmax(scores: Pixel) -> int:
    """The first of the highest."""
    best = 0
    for c, score in enumerate(scores):
        if score > scores[best]:
            best = c
    return best


def trust(scores: Pixel, kind: str) -> float:
    second, first = sorted(scores)[-2:]
    if kind == "none":
        return 1.0
    if kind == "first":
        return first
    if kind == "one_minus_second":
        return 1 - second
    return 0.0 if first == 0 else 1 - second / first


def reference_terms(
    logits: Tensor,
    teacher_logits: Tensor,
    prototype_logits: Tensor,
    present: Tensor | None,
    size: Size,
    *,
    align_corners: bool,
    weights: IapcWeights,
    importance: str = "margin_ratio",
    importance_of_logits: bool = False,
    prototype_labels: Tensor | None = None,
    labels: Tensor | None = None,
    class_weights: Tensor | None = None,
    prototype_class_weights: Tensor | None = None,
    agree_with: str = "student",
    epsilon: float = 0.0,
) -> dict[str, float]:
    """Equations 4-6, 12 and 13, a pixel at a time."""
    importance_sum = agreement_sum = prototype_sum = entropy_sum = 0.0
    places = list(itertools.product(*map(range, (len(logits), *size))))
    models = (logits, teacher_logits, prototype_logits)
    scores = (pixels(model, size, align_corners) for model in models)
    for (b, y, x), z, t, s in zip(places, *scores, strict=True):
        allowed = [True] * len(s) if present is None else present[b].tolist()
        s = [v if ok else -math.inf for v, ok in zip(s, allowed, strict=True)]
        p, p_hat, p_prime = softmax(z), softmax(t), softmax(s)
        y_t, y_prime = argmax(p), argmax(p_prime)
        if prototype_labels is not None:
            y_prime = int(prototype_labels[b, y, x])
        y_hat = argmax(t) if labels is None else int(labels[b, y, x])
        if y_hat != 255:
            a = 1.0 if class_weights is None else float(class_weights[y_hat])
            w = trust(t if importance_of_logits else p_hat, importance)
            importance_sum += w * a * -math.log(p[y_hat])
        if y_prime == (y_t if agree_with == "student" else y_hat):
            a = 1.0 if prototype_class_weights is None else float(prototype_class_weights[y_prime])
            agreement_sum += a * -math.log(p[y_prime])
        prototype_sum += -math.log(p[y_prime])
        if allowed[y_t]:
            prototype_sum += -math.log(p_prime[y_t])
        for value in p:
            entropy_sum += -value * math.log(value + epsilon)
    count = len(places)
    return {
        "importance": weights.importance * importance_sum / count,
        "agreement": weights.agreement * agreement_sum / count,
        "prototype": weights.prototype * prototype_sum / count,
        "entropy": weights.entropy * entropy_sum / count,
    }


def assert_follows_the_equations(inputs: dict[str, Any], size: Size, **options: Any) -> None:
    ours = iapc_terms(**inputs, size=size, **options)
    assert_terms(ours, reference_terms(**inputs, size=size, **options))


# --- what goes in -------------------------------------------------------------------------------


def random_inputs(
    seed: int,
    *,
    batch: int = 2,
    classes: int = 5,
    grids: tuple[Size, Size, Size] = ((3, 4), (2, 5), (4, 3)),
    whole_numbers: bool = False,
) -> dict[str, Any]:
    """Student, teacher and prototype logits on three grids; every class has a prototype."""
    generator = torch.Generator().manual_seed(seed)

    def draw(grid: Size) -> Tensor:
        if whole_numbers:  # few values: many pixels whose best classes tie, zeros and negatives
            values = torch.randint(-2, 2, (batch, classes, *grid), generator=generator)
            return values.double()
        scores = torch.randn(batch, classes, *grid, generator=generator, dtype=torch.float64)
        return 2 * scores

    logits, teacher, similarity = map(draw, grids)
    return {
        "logits": logits,
        "teacher_logits": teacher,
        "prototype_logits": similarity,
        "present": torch.ones(batch, classes, dtype=torch.bool),
    }


def paper() -> dict[str, Any]:
    return {"weights": WEIGHTS}


def reference(seed: int, batch: int, classes: int, size: Size) -> dict[str, Any]:
    """Options of the authors' code; a third of the stored labels are 255."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "weights": WEIGHTS,
        "importance_of_logits": True,
        "labels": random_labels(seed, classes, (batch, *size)),
        "class_weights": 1 + 6 * torch.rand(classes, generator=generator, dtype=torch.float64),
        "prototype_class_weights": 1
        + torch.rand(classes, generator=generator, dtype=torch.float64),
        "agree_with": "pseudo_label",
        "epsilon": 1e-5,
    }


# --- values -------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=SEEDS,
    batch=BATCHES,
    classes=CLASSES,
    grids=st.tuples(GRIDS, GRIDS, GRIDS),
    size=SIZES,
    align_corners=st.booleans(),
    authors=st.booleans(),
    mask=st.sampled_from(["student", "pseudo_label"]),
    importance=st.sampled_from(KINDS),
    of_logits=st.booleans(),
    absent=st.sampled_from(["exclude", "zero"]),
    given_labels=st.booleans(),
)
def test_every_term_equals_the_slow_loop_over_random_shapes(
    seed: int,
    batch: int,
    classes: int,
    grids: Any,
    size: Size,
    align_corners: bool,
    authors: bool,
    mask: str,
    importance: str,
    of_logits: bool,
    absent: str,
    given_labels: bool,
) -> None:
    inputs = random_inputs(seed, batch=batch, classes=classes, grids=grids)
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(batch, classes, generator=generator) < 0.6
    present[torch.arange(batch), torch.randint(classes, (batch,), generator=generator)] = True
    inputs["present"] = present if absent == "exclude" else None
    options = reference(seed, batch, classes, size) if authors else paper()
    options |= {"importance": importance, "importance_of_logits": of_logits, "agree_with": mask}
    if given_labels:  # y' from elsewhere
        options["prototype_labels"] = torch.randint(classes, (batch, *size), generator=generator)
    assert_follows_the_equations(inputs, size, align_corners=align_corners, **options)


def absent_class(inputs: dict[str, Any]) -> None:
    """The student's favourite class of the first image has no prototype there."""
    favourite = inputs["logits"][0].sum(dim=(1, 2)).argmax()
    inputs["present"][0, favourite] = False


def absent_as_zero(inputs: dict[str, Any]) -> None:
    """A class without a prototype has similarity 0, below some and above others."""
    inputs["prototype_logits"][:, 1] = 0
    inputs["present"] = None


def single_class(inputs: dict[str, Any]) -> None:
    """Memory and student see one class, and not the same one in both images."""
    inputs["present"][:] = False
    for image, c in enumerate((2, 0)):
        inputs["present"][image, c] = True
        inputs["logits"][image, c] += 20


@pytest.mark.parametrize("align_corners", [True, False], ids=["corners", "centres"])
@pytest.mark.parametrize("authors", [False, True], ids=["paper", "reference"])
@pytest.mark.parametrize("image", [absent_class, absent_as_zero, single_class])
def test_special_images_follow_the_equations(
    image: Callable[[dict[str, Any]], None], authors: bool, align_corners: bool
) -> None:
    inputs, size = random_inputs(seed=7), (6, 7)
    image(inputs)
    options = reference(7, 2, 5, size) if authors else paper()
    assert_follows_the_equations(inputs, size, align_corners=align_corners, **options)


@pytest.mark.parametrize("authors", [False, True], ids=["paper", "reference"])
@pytest.mark.parametrize(
    ("size", "align_corners"), [((5, 7), True), ((6, 8), False)], ids=["corners", "centres"]
)
def test_two_best_classes_that_tie_at_every_pixel_follow_the_equations(
    size: Size, align_corners: bool, authors: bool
) -> None:
    # Whole numbers at doubled size: interpolation is exact, so that rounding breaks no tie.
    inputs = random_inputs(7, grids=((3, 4),) * 3, whole_numbers=True)
    tied = {"logits": (1, 3), "teacher_logits": (0, 4), "prototype_logits": (3, 4)}
    for name, (one, other) in tied.items():
        inputs[name][:, one] += 20
        inputs[name][:, other] = inputs[name][:, one]
        best = upsample(inputs[name], size, align_corners).topk(2, dim=1).values
        assert torch.equal(best[:, 0], best[:, 1])
    options = reference(7, 2, 5, size) if authors else paper()
    assert_follows_the_equations(inputs, size, align_corners=align_corners, **options)


@pytest.mark.parametrize("authors", [False, True], ids=["paper", "reference"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of_logits", [False, True], ids=["probabilities", "logits"])
def test_ties_zeros_and_negative_scores_follow_the_equations(
    authors: bool, kind: str, of_logits: bool
) -> None:
    size = (5, 6)
    inputs = random_inputs(3, classes=4, grids=(size, size, size), whole_numbers=True)
    best = inputs["teacher_logits"].topk(2, dim=1).values
    assert (best[:, 0] == best[:, 1]).any()
    assert (best[:, 0] == 0).any()
    assert (best[:, 0] < 0).any()
    options = reference(3, 2, 4, size) if authors else paper()
    options |= {"importance": kind, "importance_of_logits": of_logits}
    assert_follows_the_equations(inputs, size, align_corners=False, **options)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 3), (3, 4)])
def test_upsampling_is_bilinear_by_its_definition(size: Size, align_corners: bool) -> None:
    logits = random_inputs(seed=1)["logits"]
    ours = upsample(logits, size, align_corners)
    scores = torch.tensor(pixels(logits, size, align_corners), dtype=torch.float64)
    expected = scores.view(len(logits), *size, -1).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours, expected, **EXACT)


@pytest.mark.parametrize("authors", [False, True], ids=["paper", "reference"])
def test_a_batch_of_two_is_the_mean_of_its_images(authors: bool) -> None:
    inputs, size = random_inputs(seed=4), (6, 7)
    options = reference(4, 2, 5, size) if authors else paper()
    whole = iapc_terms(**inputs, size=size, align_corners=False, **options)
    parts = []
    for i in range(2):
        one = {name: tensor[i : i + 1] for name, tensor in inputs.items()}
        own = {k: v[i : i + 1] if k == "labels" else v for k, v in options.items()}
        parts.append(iapc_terms(**one, size=size, align_corners=False, **own))
    for name, value in whole.items():
        torch.testing.assert_close(value, (parts[0][name] + parts[1][name]) / 2, **EXACT)


# --- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("align_corners", [True, False], ids=["corners", "centres"])
@pytest.mark.parametrize("authors", [False, True], ids=["paper", "reference"])
@pytest.mark.parametrize("name", ["importance", "agreement", "prototype", "entropy"])
def test_gradient_of_each_term(name: str, authors: bool, align_corners: bool) -> None:
    inputs = random_inputs(11, classes=4, grids=((2, 3), (2, 2), (3, 2)))
    inputs["present"][0, 1] = False
    size = (4, 5)
    options = reference(11, 2, 4, size) if authors else paper()
    if authors:
        inputs["present"] = None
    options["weights"] = ONES

    def term(logits: Tensor, similarity: Tensor) -> Tensor:
        given_inputs = inputs | {"logits": logits, "prototype_logits": similarity}
        terms = iapc_terms(**given_inputs, size=size, align_corners=align_corners, **options)
        return terms[name] + 0 * similarity.sum()  # the other terms do not depend on it

    points = (inputs["logits"].requires_grad_(), inputs["prototype_logits"].requires_grad_())
    assert torch.autograd.gradcheck(term, points)


def test_only_the_prototype_term_reaches_the_similarities_and_none_the_teacher() -> None:
    inputs = random_inputs(seed=2)
    for name in ("logits", "teacher_logits", "prototype_logits"):
        inputs[name].requires_grad_()
    terms = iapc_terms(**inputs, size=(6, 7), align_corners=False, weights=ONES)
    for name, term in terms.items():
        student, teacher, similarity = torch.autograd.grad(
            term,
            [inputs[n] for n in ("logits", "teacher_logits", "prototype_logits")],
            retain_graph=True,
            allow_unused=True,
        )
        assert student.abs().sum() > 0
        assert teacher is None
        reached = similarity is not None and bool(similarity.abs().sum() > 0)
        assert reached == (name == "prototype"), name


def test_gradient_of_an_excluded_class_is_zero_not_nan() -> None:
    inputs = random_inputs(seed=5)
    absent_class(inputs)
    similarity = inputs["prototype_logits"].requires_grad_()
    terms = iapc_terms(**inputs, size=(6, 7), align_corners=True, weights=WEIGHTS)
    (gradient,) = torch.autograd.grad(terms["prototype"], similarity)
    assert gradient.isfinite().all()
    absent = ~inputs["present"]
    assert gradient[absent].abs().sum() == 0
    assert gradient[~absent].abs().sum() > 0


def test_a_certain_student_has_a_finite_entropy_gradient() -> None:
    logits = torch.tensor([[500.0, -500.0]])[..., None, None].requires_grad_()
    for epsilon in (0.0, 1e-5):
        entropy = pixel_entropy(logits.log_softmax(dim=1), epsilon).sum()
        (gradient,) = torch.autograd.grad(entropy, logits)
        assert entropy.item() == pytest.approx(0, abs=1e-4)
        assert gradient.isfinite().all()


# --- the importance map and the entropy on their own --------------------------------------------


def test_importance_by_hand() -> None:
    p = torch.tensor([0.6, 0.3, 0.1])
    teacher = p.log()[None, :, None, None]
    expected = {"margin_ratio": 0.5, "none": 1.0, "first": 0.6, "one_minus_second": 0.7}
    for kind in KINDS:
        assert importance_map(teacher, kind).item() == pytest.approx(expected[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_importance_of_probabilities_stays_between_0_and_1(kind: Any) -> None:
    teacher = 30 * random_inputs(seed=6)["teacher_logits"]
    value = importance_map(teacher, kind)
    assert value.shape == teacher[:, 0].shape
    assert bool(((value >= 0) & (value <= 1)).all())


def test_margin_ratio_is_0_at_a_tie_and_1_when_certain() -> None:
    teacher = torch.tensor([[5.0, 5.0, 1.0], [900.0, 0.0, -9.0]])[..., None, None]
    assert importance_map(teacher, "margin_ratio").flatten().tolist() == [0.0, 1.0]


def test_margin_ratio_of_logits_is_unclamped_and_0_where_the_first_is_0() -> None:
    teacher = torch.tensor([[4.0, -2.0], [-2.0, -4.0], [0.0, -3.0]])[..., None, None]
    value = importance_map(teacher, "margin_ratio", of_logits=True)
    assert value.flatten().tolist() == [1.5, -1.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_importance_is_a_constant(kind: Any) -> None:
    teacher = random_inputs(seed=6)["teacher_logits"].requires_grad_()
    assert not importance_map(teacher, kind).requires_grad


def test_entropy_of_no_opinion_is_log_k() -> None:
    none = torch.zeros(2, 19, 3, 4).log_softmax(dim=1)
    assert pixel_entropy(none).mean().item() == pytest.approx(math.log(19))


# --- weights, masks, labels ---------------------------------------------------------------------


def test_a_term_of_weight_0_is_left_out() -> None:
    inputs = random_inputs(seed=8)
    names = ("importance", "agreement", "prototype", "entropy")
    whole = iapc_terms(**inputs, size=(6, 7), align_corners=False, weights=WEIGHTS)
    for i, name in enumerate(names):
        weights = [0.2, 0.5, 0.04, 2.0]
        weights[i] = 0.0
        terms = iapc_terms(
            **inputs, size=(6, 7), align_corners=False, weights=IapcWeights(*weights)
        )
        assert terms.keys() == set(names) - {name}
        assert all(torch.equal(terms[key], whole[key]) for key in terms)


def test_prototypes_are_needed_only_where_they_count() -> None:
    inputs = random_inputs(seed=8) | {"prototype_logits": None, "present": None}
    no_prototypes = IapcWeights(1.0, 0.0, 0.0, 1.0)
    terms = iapc_terms(**inputs, size=(6, 7), align_corners=False, weights=no_prototypes)
    assert terms.keys() == {"importance", "entropy"}
    with pytest.raises(ValueError, match="prototype_logits are needed"):
        iapc_terms(**inputs, size=(6, 7), align_corners=False, weights=WEIGHTS)


def test_no_labelled_pixel_gives_zero_and_zero_gradient() -> None:
    inputs = random_inputs(seed=9)
    logits = inputs["logits"].requires_grad_()
    options = reference(9, 2, 5, (6, 7))
    options["labels"] = torch.full((2, 6, 7), 255)
    terms = iapc_terms(**inputs, size=(6, 7), align_corners=False, **options)
    assert terms["importance"].item() == terms["agreement"].item() == 0
    total = terms["importance"] + terms["agreement"]
    (gradient,) = torch.autograd.grad(total, logits)
    assert gradient.abs().sum() == 0


def test_stored_labels_replace_the_teachers_and_the_two_masks_differ() -> None:
    inputs, size = random_inputs(seed=10), (6, 7)
    online = iapc_terms(**inputs, size=size, align_corners=False, weights=ONES)
    options: dict[str, Any] = {"size": size, "align_corners": False, "weights": ONES}
    own = upsample(inputs["teacher_logits"], size, False).argmax(dim=1)
    same = iapc_terms(**inputs, **options, labels=own)
    other = iapc_terms(**inputs, **options, labels=(own + 1) % 5)
    assert torch.equal(same["importance"], online["importance"])
    assert not torch.equal(other["importance"], online["importance"])
    assert torch.equal(other["agreement"], online["agreement"])  # the paper's mask needs no label
    stored = iapc_terms(**inputs, **options, labels=own, agree_with="pseudo_label")
    assert not torch.equal(stored["agreement"], online["agreement"])
    derived = iapc_terms(**inputs, **options, agree_with="pseudo_label")
    assert torch.equal(stored["agreement"], derived["agreement"])


# --- dtypes and errors --------------------------------------------------------------------------


@pytest.mark.parametrize("authors", [False, True], ids=["paper", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_logits_give_float32_close_to_float64(dtype: torch.dtype, authors: bool) -> None:
    inputs, size = random_inputs(seed=12), (6, 7)
    options = reference(12, 2, 5, size) if authors else paper()
    names = ("logits", "teacher_logits", "prototype_logits")
    narrow = inputs | {name: inputs[name].to(dtype) for name in names}
    exact = reference_terms(
        **(inputs | {name: narrow[name].double() for name in names}),
        size=size,
        align_corners=False,
        **options,
    )
    weights = ("class_weights", "prototype_class_weights")
    options |= {name: options[name].float() for name in weights if name in options}
    terms = iapc_terms(**narrow, size=size, align_corners=False, **options)
    for name, value in exact.items():
        assert terms[name].dtype == torch.float32
        assert terms[name].item() == pytest.approx(value, rel=2e-6), name


def test_autocast_changes_nothing() -> None:
    inputs, size = random_inputs(seed=13), (6, 7)
    narrow = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
    plain = iapc_terms(**narrow, size=size, align_corners=False, weights=WEIGHTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = iapc_terms(**narrow, size=size, align_corners=False, weights=WEIGHTS)
    assert all(torch.equal(cast[name], plain[name]) for name in plain)


def test_only_float64_stays_wide() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert at_least_float32(torch.ones(1, dtype=dtype)).dtype == torch.float32
    assert at_least_float32(torch.ones(1, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 5, 3)}, r"B, K, h, w\) with K >= 2, got \(2, 5, 3\)"),
        ({"logits": torch.zeros(2, 1, 3, 4)}, r"K >= 2, got \(2, 1, 3, 4\)"),
        ({"logits": torch.zeros(2, 5, 3, 4).long()}, "int64"),
        ({"teacher_logits": torch.zeros(2, 4, 3, 4)}, r"teacher_logits .* \(2, 4\).*\(2, 5\)"),
        ({"prototype_logits": torch.zeros(1, 5, 3, 4)}, r"prototype_logits .* \(1, 5\)"),
        ({"present": torch.ones(2, 6).bool()}, r"present .* \(2, 6\)"),
        ({"labels": torch.zeros(2, 6, 6).long()}, r"labels .* \(2, 6, 7\), got \(2, 6, 6\)"),
        ({"labels": torch.zeros(1, 6, 7).long()}, r"labels .* \(2, 6, 7\), got \(1, 6, 7\)"),
    ],
)
def test_shapes_that_disagree_are_named(change: dict[str, Tensor], message: str) -> None:
    inputs = random_inputs(seed=0) | change
    with pytest.raises(ShapeError, match=message):
        iapc_terms(**inputs, size=(6, 7), align_corners=False, weights=WEIGHTS)
