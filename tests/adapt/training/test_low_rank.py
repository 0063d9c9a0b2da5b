"""Changes of low rank: equal to autograd through W_0 + s B A, written after each step, restored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from roadshift.adapt.methods.base import ParameterGroup
from roadshift.adapt.training.low_rank import (
    FACTORS,
    LowRankChange,
    end_changes,
    learned_tensors,
    load_learned_tensors,
    low_rank_groups,
    write_after_steps,
)
from torch import Tensor, nn

SCALE = 1.5
Optimizer = torch.optim.Optimizer


def made(
    weight: nn.Parameter, rank: int, *, seed: int = 0, kind: str = "sgd"
) -> tuple[Optimizer, LowRankChange]:
    """An optimiser of one change."""
    group = ParameterGroup("body", [weight], 1.0)
    ((replaced, (change,)),) = low_rank_groups([group], [weight], rank, SCALE, seed)
    groups = [{"params": replaced.parameters, FACTORS: [change]}]
    optimizer: Optimizer
    if kind == "sgd":
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01)
    else:
        optimizer = torch.optim.AdamW(groups, lr=0.05)
    write_after_steps(optimizer)
    return optimizer, change


def data(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return (
        torch.randn(6, 5, generator=generator, dtype=torch.float64),
        torch.randn(6, 7, generator=generator, dtype=torch.float64),
    )


def weight_of(seed: int = 3) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(7, 5, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_steps_are_those_of_autograd_through_the_product(kind: str) -> None:
    """In float64, two micro-batches a step, against the equation written out."""
    weight = weight_of()
    optimizer, change = made(weight, 2, kind=kind)
    start = weight.detach().clone()
    a, b = (nn.Parameter(t.detach().clone()) for t in (change.a, change.b))
    plain: Optimizer = (
        torch.optim.SGD([a, b], lr=0.1, momentum=0.9, weight_decay=0.01)
        if kind == "sgd"
        else torch.optim.AdamW([a, b], lr=0.05)
    )
    assert torch.equal(weight, start)
    for step in range(5):
        for micro in range(2):
            x, y = data(10 * step + micro)
            (x @ weight.T - y).square().mean().backward()
            (x @ (start + SCALE * b @ a).T - y).square().mean().backward()
        assert weight.grad is None
        optimizer.step()
        plain.step()
        optimizer.zero_grad()
        plain.zero_grad()
        torch.testing.assert_close(
            weight.detach(), (start + SCALE * b @ a).detach(), atol=1e-12, rtol=1e-12
        )
    change_made = weight.detach() - start
    assert torch.linalg.matrix_rank(change_made, tol=1e-9) == 2


def test_a_rank_beyond_the_matrix_is_its_full_rank() -> None:
    _, change = made(weight_of(), 100)
    assert change.a.shape == (5, 5)
    assert change.b.shape == (7, 5)


def test_what_is_restored_goes_on_to_the_same_bits() -> None:
    whole, halves = weight_of(), weight_of()
    first, _ = made(whole, 2)
    second, _ = made(halves, 2)

    def step(weight: nn.Parameter, optimizer: Optimizer, number: int) -> None:
        x, y = data(number)
        (x @ weight.T - y).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    for number in range(4):
        step(whole, first, number)
    for number in range(2):
        step(halves, second, number)
    kept = {name: t.clone() for name, t in learned_tensors(second).items()}
    assert kept.keys() >= {"change.0.a", "change.0.b"}
    begun = weight_of()  # at the stage's start, as a resumed run has it
    again, _ = made(begun, 2, seed=9)
    with torch.no_grad():
        begun.copy_(halves)
    load_learned_tensors(again, kept)
    for number in range(2, 4):
        step(begun, again, number)
    assert torch.equal(begun, whole)


def test_the_next_stage_changes_what_the_last_one_left() -> None:
    weight = weight_of()
    optimizer, _ = made(weight, 1)
    for stage in range(2):
        before = weight.detach().clone()
        for number in range(2):
            x, y = data(number)
            (x @ weight.T - y).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert torch.linalg.matrix_rank(weight.detach() - before, tol=1e-9) == 1, stage
        end_changes(optimizer)
        optimizer, _ = made(weight, 1, seed=stage + 1)
    end_changes(optimizer)
    x, y = data(0)
    (x @ weight.T - y).square().mean().backward()
    assert weight.grad is not None


def test_other_parameters_of_a_group_learn_as_they_are() -> None:
    weight, bias = weight_of(), nn.Parameter(torch.zeros(7))
    groups: Any = low_rank_groups(
        [ParameterGroup("body", [weight, bias], 2.0)], [weight], 2, 1.0, 0
    )
    ((group, changes),) = groups
    assert group.factor == 2.0
    assert group.parameters[-1] is bias
    assert len(group.parameters) == 3
    assert changes[0].weight is weight
