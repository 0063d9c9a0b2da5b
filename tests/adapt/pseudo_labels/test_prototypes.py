"""Class sums, prototypes and similarities against loops over positions; edges; gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.adapt.pseudo_labels.prototypes import (
    LEAST,
    class_prototypes,
    class_sums,
    linear_logits,
    prototype_logits,
)
from torch import Tensor

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def random_positions(
    seed: int, batch: int = 2, depth: int = 4, grid: tuple[int, int] = (3, 5), classes: int = 4
) -> tuple[Tensor, Tensor]:
    """Features and labels; some labels are -1, K or 255 and count for no class."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, depth, *grid, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (batch, *grid), generator=generator)
    for outside in (-1, classes, 255):
        labels[torch.rand(labels.shape, generator=generator) < 0.1] = outside
    return features, labels


def slow_prototypes(
    features: Tensor, labels: Tensor, classes: int
) -> tuple[list[list[list[float]]], list[list[int]]]:
    """Equations 8-9 one position at a time: (B, K, D) means, zero if absent, and (B, K) counts."""
    values, ids = features.tolist(), labels.tolist()
    batch, depth, height, width = features.shape
    sums = [[[0.0] * depth for _ in range(classes)] for _ in range(batch)]
    counts = [[0] * classes for _ in range(batch)]
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                c = ids[b][y][x]
                if 0 <= c < classes:
                    counts[b][c] += 1
                    for d in range(depth):
                        sums[b][c][d] += values[b][d][y][x]
    for b in range(batch):
        for c in range(classes):
            sums[b][c] = [value / max(1, counts[b][c]) for value in sums[b][c]]
    return sums, counts


shapes = {
    "seed": st.integers(0, 2**31),
    "batch": st.integers(1, 3),
    "depth": st.integers(1, 6),
    "grid": st.tuples(st.integers(1, 5), st.integers(1, 5)),
    "classes": st.integers(2, 6),
}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(**shapes)
def test_prototypes_are_the_mean_feature_of_each_class_of_each_image(
    seed: int, batch: int, depth: int, grid: tuple[int, int], classes: int
) -> None:
    features, labels = random_positions(seed, batch, depth, grid, classes)
    expected, counts = slow_prototypes(features, labels, classes)
    prototypes, present = class_prototypes(features, labels, classes)
    torch.testing.assert_close(prototypes, torch.tensor(expected, dtype=torch.float64), **EXACT)
    assert present.tolist() == [[n > 0 for n in row] for row in counts]
    sums, our_counts = class_sums(features, labels, classes)
    assert our_counts.tolist() == counts
    torch.testing.assert_close(sums, prototypes * our_counts[..., None], **EXACT)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    **shapes,
    similarity=st.sampled_from(["cosine", "dot"]),
    temperature=st.sampled_from([0.07, 1.0, 3.0]),
    shared=st.booleans(),
)
def test_similarity_is_the_inner_product_over_the_temperature(
    seed: int,
    batch: int,
    depth: int,
    grid: tuple[int, int],
    classes: int,
    similarity: str,
    temperature: float,
    shared: bool,
) -> None:
    features, labels = random_positions(seed, batch, depth, grid, classes)
    prototypes, _ = class_prototypes(features, labels, classes)
    if shared:
        prototypes = prototypes[:1]
    ours = prototype_logits(features, prototypes, similarity=similarity, temperature=temperature)
    assert ours.shape == (batch, classes, *grid)
    values, centres = features.tolist(), prototypes.tolist()
    for b in range(batch):
        for c in range(classes):
            k = centres[0 if shared else b][c]
            for y in range(grid[0]):
                for x in range(grid[1]):
                    f = [values[b][d][y][x] for d in range(depth)]
                    product = sum(u * v for u, v in zip(f, k, strict=True))
                    if similarity == "cosine" and any(k):
                        product /= math.hypot(*f) * math.hypot(*k)
                    expected = product / temperature
                    assert ours[b, c, y, x].item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_an_absent_class_has_a_zero_prototype_and_is_like_nothing() -> None:
    features, labels = random_positions(0)
    labels[0][labels[0] == 1] = 2
    prototypes, present = class_prototypes(features, labels, 4)
    assert not present[0, 1]
    assert present[1, 1]
    assert prototypes[0, 1].abs().sum() == 0
    for similarity in ("cosine", "dot"):
        s = prototype_logits(features, prototypes, similarity=similarity, temperature=0.1)
        assert s[0, 1].abs().sum() == 0
        assert s[1, 1].abs().sum() > 0


def test_an_image_of_one_class_has_one_prototype_its_mean_feature() -> None:
    features, labels = random_positions(1)
    prototypes, present = class_prototypes(features, torch.full_like(labels, 3), 4)
    assert present.tolist() == [[False, False, False, True]] * 2
    torch.testing.assert_close(prototypes[:, 3], features.mean(dim=(2, 3)), **EXACT)


def test_positions_of_a_detector_are_a_grid_of_one_row() -> None:
    features, labels = random_positions(2)
    grid_prototypes, _ = class_prototypes(features, labels, 4)
    row_features = features.flatten(2)[:, :, None]
    row_prototypes, _ = class_prototypes(row_features, labels.flatten(1)[:, None], 4)
    torch.testing.assert_close(row_prototypes, grid_prototypes, **EXACT)


def test_cosine_similarity_ignores_the_length_of_features_and_prototypes() -> None:
    features, labels = random_positions(3)
    prototypes, _ = class_prototypes(features, labels, 4)
    one = prototype_logits(features, prototypes, similarity="cosine", temperature=1)
    other = prototype_logits(9 * features, 0.1 * prototypes, similarity="cosine", temperature=1)
    torch.testing.assert_close(one, other, **EXACT)
    assert one.abs().max() <= 1 + 1e-12


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_gradient_reaches_the_features(similarity: str) -> None:
    features, labels = random_positions(4, grid=(2, 2))
    prototypes, _ = class_prototypes(features, labels, 4)

    def logits(f: Tensor) -> Tensor:
        return prototype_logits(f, prototypes, similarity=similarity, temperature=0.5)

    assert torch.autograd.gradcheck(logits, (features.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_features_are_summed_in_float32(dtype: torch.dtype) -> None:
    features, labels = random_positions(5, grid=(40, 50))
    features, labels = (60 + features).to(dtype), labels.clamp(0, 1)
    exact_sums, exact_counts = class_sums(features.double(), labels, 4)
    assert exact_sums.max() > torch.finfo(torch.float16).max
    sums, counts = class_sums(features, labels, 4)
    assert sums.dtype == counts.dtype == torch.float32
    torch.testing.assert_close(sums.double(), exact_sums, rtol=1e-5, atol=1e-5)
    assert torch.equal(counts.double(), exact_counts)
    prototypes, _ = class_prototypes(features, labels, 4)
    s = prototype_logits(features, prototypes, similarity="cosine", temperature=1)
    exact = prototype_logits(
        features.double(), prototypes.double(), similarity="cosine", temperature=1
    )
    assert s.dtype == torch.float32
    torch.testing.assert_close(s.double(), exact, rtol=1e-5, atol=1e-5)


def test_autocast_narrows_neither_sums_nor_similarities() -> None:
    features, labels = random_positions(6, grid=(9, 11))
    features = features.float()
    prototypes, _ = class_prototypes(features, labels, 4)
    plain = prototype_logits(features, prototypes, similarity="cosine", temperature=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast_prototypes, _ = class_prototypes(features, labels, 4)
        cast = prototype_logits(features, prototypes, similarity="cosine", temperature=1)
    assert torch.equal(cast_prototypes, prototypes)
    assert torch.equal(cast, plain)


# --- the linear normalisation -------------------------------------------------------------------


def slow_reference_distribution(features: Tensor, prototypes: Tensor) -> list[list[float]]:
    """Equation 10 as it stands, one position, one class, one channel at a time."""
    f, k = features.tolist(), prototypes.tolist()
    batch, depth, height, width = features.shape
    found = []
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                products = []
                for prototype in k[b]:
                    product = 0.0
                    for d in range(depth):
                        product += f[b][d][y][x] * prototype[d]
                    products.append(max(product, 0.0))
                total = sum(products)
                found.append([p / total if total else 1 / len(products) for p in products])
    return found


def by_position(values: Tensor) -> Tensor:
    return values.permute(0, 2, 3, 1).flatten(0, 2)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(**shapes)
def test_the_reference_distribution_of_features_after_a_relu_is_equation_10(
    seed: int, batch: int, depth: int, grid: tuple[int, int], classes: int
) -> None:
    features, labels = random_positions(seed, batch, depth, grid, classes)
    features = features.relu() + 0.01
    prototypes, present = class_prototypes(features, labels, classes)
    s = prototype_logits(features, prototypes, similarity="dot", temperature=1.0)
    s = s.masked_fill(~present[:, :, None, None], 0.0)  # an absent class's prototype is zero
    logits = by_position(linear_logits(s))
    expected = torch.tensor(slow_reference_distribution(features, prototypes), dtype=torch.float64)
    floor = classes * LEAST if bool((expected < LEAST).any()) else 1e-12
    assert (logits.softmax(dim=1) - expected).abs().max() <= floor
    seen = present.any(dim=1).repeat_interleave(grid[0] * grid[1])
    assert torch.equal(logits.argmax(dim=1)[seen], expected.argmax(dim=1)[seen])  # eq. 11


def test_negative_products_count_as_0_and_nothing_at_all_is_even() -> None:
    s = torch.tensor([[3.0, -5.0, 1.0], [-1.0, -2.0, -3.0], [0.0, 0.0, 0.0]]).double()
    p = linear_logits(s[:, :, None, None]).softmax(dim=1)[..., 0, 0]
    expected = [[0.75, 0.0, 0.25], [1 / 3] * 3, [1 / 3] * 3]
    torch.testing.assert_close(p, torch.tensor(expected).double(), rtol=0, atol=3 * LEAST)


def test_the_linear_normalisation_does_not_know_the_features_scale() -> None:
    s = torch.rand(2, 4, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(linear_logits(1e6 * s), linear_logits(s), **EXACT)


def test_gradient_of_the_linear_normalisation() -> None:
    s = torch.rand(1, 3, 2, 2, dtype=torch.float64) + 0.1
    s[0, 1, 0, 0], s[0, :, 1, 1] = -0.5, -1.0
    assert torch.autograd.gradcheck(linear_logits, s.requires_grad_())
    (gradient,) = torch.autograd.grad(linear_logits(s).sum(), s)
    assert gradient.isfinite().all()
    assert gradient[0, 1, 0, 0] == 0
