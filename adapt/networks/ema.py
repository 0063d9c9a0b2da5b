"""Averages of weights: the memory model, and the interpolation between a run's start and end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from .copies import copy_of

Model = TypeVar("Model", bound=nn.Module)


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
