"""Averages of weights: the memory model, and the interpolation between a run's start and end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from .copies import copy_of

Model = TypeVar("Model", bound=nn.Module)
_STEPS = "steps of the average"  # no name of a parameter


def frozen_copy(model: Model) -> Model:
    """A copy of ``model`` that does not learn, in evaluation mode."""
    return copy_of(model).eval().requires_grad_(False)


@torch.no_grad()
def ema_update(memory: nn.Module, student: nn.Module, decay: float) -> None:
    """``m <- decay m + (1 - decay) s`` for every parameter; buffers are copied.

    Source: the memory model of Cao et al., "IAPC" (arXiv:2306.01598), with a smoothing of 1e-4,
    which is a decay of 0.9999; that the buffers are copied is its authors' code's.
    """
    torch._foreach_lerp_(list(memory.parameters()), list(student.parameters()), 1 - decay)
    ours, theirs = list(memory.buffers()), list(student.buffers())
    if ours:
        torch._foreach_copy_(ours, theirs)


class MovingAverage(Generic[Model]):
    """A frozen copy of a student that follows its weights, see `ema_update`.

    Args:
        student: copied as it is now.
        decay: of a step.
        ramp: after t steps the decay is t / (t + 1) where that is less, so that the average begins
            as the plain mean of all weights so far. Source: DACS's mean teacher (Tranheden et al.,
            WACV 2021), which ATP's authors' code has.
    """

    def __init__(self, student: Model, decay: float, *, ramp: bool = False) -> None:
        self.model = frozen_copy(student)
        self._decay, self._ramp = decay, ramp
        self._steps = torch.zeros((), dtype=torch.int64)

    def follow(self, student: nn.Module) -> None:
        """Move on, after a step of the student."""
        self._steps += 1
        steps = int(self._steps)
        decay = min(steps / (steps + 1), self._decay) if self._ramp else self._decay
        ema_update(self.model, student, decay)

    def state(self) -> dict[str, Tensor]:
        """The copy's tensors, and the steps so far where they count."""
        return {**self.model.state_dict(), **({_STEPS: self._steps} if self._ramp else {})}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        if self._ramp:
            self._steps = tensors[_STEPS].cpu().clone()
        self.model.load_state_dict({n: t for n, t in tensors.items() if n != _STEPS})


@torch.no_grad()
def interpolate_weights(model: nn.Module, start: Mapping[str, Tensor], share: float) -> None:
    """``w <- w_start + share (w - w_start)`` for every parameter; buffers stay."""
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.lerp(start[name].to(parameter), parameter, share))


def snapshot(tensors: list[Tensor]) -> list[Tensor]:
    """Copies of ``tensors``, to be put back with `restore`."""
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def restore(tensors: list[Tensor], copies: list[Tensor]) -> None:
    """Put the values of `snapshot` back."""
    if tensors:
        torch._foreach_copy_(tensors, copies)
