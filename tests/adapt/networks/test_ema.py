"""The moving average of a student, with and without a ramp of its decay."""

from __future__ import annotations

import copy

import pytest
import torch
from roadshift.adapt.networks.ema import MovingAverage
from torch import Tensor, nn


def walk(student: nn.Linear, steps: int) -> list[Tensor]:
    """Weights that the student comes to."""
    torch.manual_seed(2)
    return [torch.randn_like(student.weight) for _ in range(steps)]


def moved(average: MovingAverage[nn.Linear], student: nn.Linear, path: list[Tensor]) -> Tensor:
    for weight in path:
        with torch.no_grad():
            student.weight.copy_(weight)
        average.follow(student)
    return average.model.get_parameter("weight").detach()


def test_a_ramp_begins_as_the_plain_mean_of_all_weights_so_far() -> None:
    student = nn.Linear(3, 2, bias=False).double()
    start, path = student.weight.detach().clone(), walk(student, 4)
    average = MovingAverage(student, 0.999, ramp=True)
    expected = torch.stack([start, *path]).mean(dim=0)
    torch.testing.assert_close(moved(average, student, path), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ramp", [True, False])
def test_the_decay_is_the_lesser_of_both(ramp: bool) -> None:
    student = nn.Linear(3, 2, bias=False).double()
    expected, path = student.weight.detach().clone(), walk(student, 5)
    average = MovingAverage(student, 0.7, ramp=ramp)
    for t, weight in enumerate(path, start=1):
        decay = min(1 - 1 / (t + 1), 0.7) if ramp else 0.7
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(moved(average, student, path), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ramp", [True, False])
def test_it_goes_on_from_its_state(ramp: bool) -> None:
    student = nn.Linear(3, 2, bias=False).double()
    path = walk(student, 4)
    whole, halved = (MovingAverage(student, 0.9, ramp=ramp) for _ in range(2))
    moved(halved, student, path[:2])
    state = copy.deepcopy(halved.state())
    again = MovingAverage(student, 0.9, ramp=ramp)
    again.load_state(state)
    one, other = moved(again, student, path[2:]), moved(whole, student, path)
    assert torch.equal(one, other)
