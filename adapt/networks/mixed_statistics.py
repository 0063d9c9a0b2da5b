"""Batch-norm statistics of target frames, mixed with those that the source model was trained with.

    m = (1 - a) m_s + a m_t
    v = (1 - a) v_s + a v_t + a (1 - a) (m_s - m_t)^2

the mean and variance of a mixture of both sets of inputs, in which the target's weigh a. Replacing
the source's (a = 1) is AdaBN (Li et al., arXiv:1603.04779); a share of them: Schneider et al.,
NeurIPS 2020 (arXiv:2006.16971), and alpha-BN, You et al. (arXiv:2110.04065). No gradient, no label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .batch_norm import batch_norm_layers
from .batch_norm_of_one import Note, lone_values_allowed
from .modes import evaluating


class Moments(NamedTuple):
    """Mean and variance of every channel of a layer's inputs, both (C,)."""

    mean: Tensor
    variance: Tensor


Statistics = Mapping[_BatchNorm, Moments]


def running_statistics(model: nn.Module) -> Statistics:
    """A copy of the running statistics of every layer that keeps some."""
    return {
        layer: Moments(layer.running_mean.clone(), layer.running_var.clone())
        for layer in batch_norm_layers(model)
        if layer.running_mean is not None and layer.running_var is not None
    }


@torch.no_grad()
def target_statistics(
    model: nn.Module, batches: Iterable[Tensor], note: Note = lambda _: None
) -> Statistics:
    """Means and variances over ``batches``, of every layer that one reaches; nothing is changed.

    Each batch is normalised with its own statistics while it passes, every other layer is in
    evaluation mode, and the statistics of all batches count alike (a cumulative average, so the
    order of the frames does not matter). A layer that sees one value a channel, behind global
    pooling in a batch of one frame, learns nothing from that batch (see `batch_norm_of_one`).

    Args:
        batches: network inputs, (B, 3, H, W).
        note: told which layer saw a lone value.
    """
    layers = batch_norm_layers(model)
    before = running_statistics(model)
    with _buffers_kept(layers), evaluating(model):
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.training = True  # not train(): a frozen layer may have its own
        try:
            with lone_values_allowed(model, note, before):
                for images in batches:
                    model.forward(images)  # not model(): torch.compile would compile one of its own
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
        found = running_statistics(model)
        return {layer: found[layer] for layer in found if layer.num_batches_tracked != 0}


@torch.no_grad()
def mix_statistics(source: Statistics, target: Statistics, share: float) -> int:
    """Give each layer of ``target`` the mixture in which the target weighs ``share``, 0 to 1.

    Returns:
        The number of layers that now have other statistics than the source's.
    """
    for layer, (mean, variance) in target.items():
        assert layer.running_mean is not None
        assert layer.running_var is not None
        old = source[layer]
        if share in (0, 1):  # exactly
            mixed = old if share == 0 else Moments(mean, variance)
        else:
            apart = share * (1 - share) * (old.mean - mean).square()
            mixed = Moments(
                torch.lerp(old.mean, mean, share), torch.lerp(old.variance, variance, share) + apart
            )
        layer.running_mean.copy_(mixed.mean)
        layer.running_var.copy_(mixed.variance)
    return len(target) if share > 0 else 0


def reestimate_batch_norm(
    model: nn.Module,
    batches: Iterable[Tensor],
    share: float,
    note: Note = lambda _: None,
    source: Statistics | None = None,
) -> int:
    """Mix ``model``'s statistics with those of ``batches``, which get ``share`` of the weight.

    Args:
        model: changed in place: only the running means and variances of batch norm. A layer that no
            batch reaches keeps what it had.
        batches: network inputs, (B, 3, H, W); not asked for where ``share`` is 0.
        share: of the target, 0 (nothing changes) to 1 (its statistics take the place of the old).
        note: see `target_statistics`.
        source: what to mix with; the statistics that ``model`` has unless given.

    Returns:
        The number of layers that have other statistics now.
    """
    if share == 0:
        return 0
    source = running_statistics(model) if source is None else source
    return mix_statistics(source, target_statistics(model, batches, note), share)


@contextmanager
def _buffers_kept(layers: Iterable[_BatchNorm]) -> Iterator[None]:
    """Give batch norm's buffers their values back at the end."""
    kept = [(buffer, buffer.clone()) for layer in layers for buffer in layer.buffers()]
    try:
        yield
    finally:
        for buffer, old in kept:
            buffer.copy_(old)
