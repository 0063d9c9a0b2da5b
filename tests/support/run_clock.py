"""A clock that passes of the network alone move, for time budgets without waiting."""

from __future__ import annotations

import pytest
import torch
from roadshift.adapt.run import budget as budget_module
from torch import Tensor

PIXELS = 48 * 32  # of a frame
A_FRAME_S = 0.1  # that the network takes for one


class Clock:
    """Stands where it is until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(budget_module, "time", clock)
    return clock


@pytest.fixture
def slow_network(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every forward pass of a convolution network takes its time, and a backward pass twice it."""
    forward = torch.nn.Conv2d.forward

    def counted(self: torch.nn.Conv2d, images: Tensor) -> Tensor:
        if self.in_channels == 3:  # the first layer
            share = images.shape[0] * images.shape[2] * images.shape[3] / PIXELS
            clock.now += A_FRAME_S * share * (3 if torch.is_grad_enabled() else 1)
        return forward(self, images)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", counted)
