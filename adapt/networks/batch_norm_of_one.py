"""Batch norm over one value a channel: what global pooling leaves of a batch of one frame.

One value has no variance. Normalised with its own statistics it is always 0, whatever it was, so
the layer would say the same of every frame, and a variance of 0 kept for later would blow up the
next value by 1 / sqrt(eps); torch refuses such a batch in training mode. Right is what the layer
does in the car, where every batch is one frame: it normalises with its running statistics, and
learns nothing about them from this batch. Its scale and shift learn as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Note = Callable[[str], None]
Statistics = Mapping[_BatchNorm, tuple[Tensor, Tensor]]  # running mean and variance, both (C,)


@contextmanager
def lone_values_allowed(
    model: nn.Module, note: Note = lambda _: None, statistics: Statistics | None = None
) -> Iterator[None]:
    """Let every batch norm of ``model`` use its running statistics where it sees a lone value.

    Args:
        note: told once which layer it was.
        statistics: in place of the running ones, where these are being made.
    """
    undo = allow_lone_values(model, note, statistics)
    try:
        yield
    finally:
        undo()


def allow_lone_values(
    model: nn.Module, note: Note = lambda _: None, statistics: Statistics | None = None
) -> Callable[[], None]:
    """Apply `lone_values_allowed` until the function that is returned is called."""
    told: list[str] = []
    layers = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    ]
    before = [layer.__dict__.get("forward") for _, layer in layers]
    for name, layer in layers:
        own = None if statistics is None else statistics.get(layer)
        # a method of the layer, so that a copy of the layer gets one of its own
        layer.__dict__["forward"] = MethodType(_forward(name, own, note, told), layer)

    def undo() -> None:
        for (_, layer), forward in zip(layers, before, strict=True):
            if forward is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.__dict__["forward"] = forward

    return undo


def is_lone(x: Tensor) -> bool:
    """Tell whether a tensor (N, C, ...) holds one value a channel."""
    return x.ndim > 1 and x.numel() == x.shape[1]


def _forward(
    name: str, own: tuple[Tensor, Tensor] | None, note: Note, told: list[str]
) -> Callable[[_BatchNorm, Tensor], Tensor]:
    def forward(layer: _BatchNorm, x: Tensor) -> Tensor:
        uses_its_own = layer.training or not layer.track_running_stats
        if not (uses_its_own and is_lone(x)):
            return type(layer).forward(layer, x)
        if not told:
            told.append(name)
            note(
                f"batch norm {name} sees one value a channel of a single frame, which has no "
                "variance: there it uses its running statistics"
            )
        mean, variance = own or (layer.running_mean, layer.running_var)
        return F.batch_norm(x, mean, variance, layer.weight, layer.bias, eps=layer.eps)

    return forward
