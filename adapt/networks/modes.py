"""Evaluation mode for the duration of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .batch_norm import batch_norm_layers
from .batch_norm_of_one import lone_values_allowed


@contextmanager
def evaluating(network: nn.Module, *, own_statistics: bool = False) -> Iterator[None]:
    """Every module in evaluation mode, and back to its own mode afterwards.

    Args:
        own_statistics: batch norm normalises each batch with that batch's mean and variance, as
            re-estimating would; the running ones stand still, and serve where a channel has one
            value alone.
    """
    modes = {module: module.training for module in network.modules()}
    layers = batch_norm_layers(network) if own_statistics else []
    network.eval()
    for layer in layers:
        layer.training = True  # not train(): a frozen layer may have its own
        layer.track_running_stats = False
    try:
        with lone_values_allowed(network):
            yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
        network.train(modes[network])  # a foreign network's root is not among its modules
        for module, training in modes.items():
            module.training = training
