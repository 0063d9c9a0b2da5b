"""Layers that normalise, of every kind, and the rule on when batch norm's statistics tell enough.

A verdict's second opinion, the size of a shift in nats and Tent rest on batch norm that stands
throughout a network: then its statistics say of every depth what the frames look like there. A
transformer with one batch norm in its decoder has statistics of its last features alone. Mixing
them with the frames' pays all the same (docs/results/without-batch-norm.md); what they would say of
the network before them they do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from .batch_norm import batch_norm_layers

# DeepLabV2, FastSCNN and ESPNetv2 have 0.96, 0.89 and 0.54 batch norms for each layer with weights,
# all norms that they have; SegFormer-B0 has 0.01 (with mmsegmentation's decoder 0.07), and thirty
# times as many layer norms. A network with batch norm behind every second or third convolution, or
# half of it instance norm, is told everywhere what the frames look like, too.
LEAST_OF_WEIGHTED = 0.2  # batch norms for each convolution or linear layer
LEAST_OF_NORMS = 0.5  # share of batch norm in the layers that normalise

KEEPS_NONE = "the network keeps no batch-norm statistics"

_TORCHS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # the first: batch and instance norm
_WEIGHTED = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    nn.Linear,
)


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of ``model`` that normalise: torch's, and others named so that have a scale."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _TORCHS)
        or (
            "norm" in type(module).__name__.lower()
            and any(p.ndim == 1 for p in module.parameters(recurse=False))
        )
    ]


def norm_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Scales and shifts of all `norm_layers`, each once, whether they learn or not."""
    found = {id(p): p for layer in norm_layers(model) for p in layer.parameters(recurse=False)}
    return list(found.values())


def carries_statistics(model: nn.Module) -> bool:
    """Tell whether batch norm with running statistics stands throughout the network: the rule.

    It does where there is one for every five convolutions and linear layers at least, and no other
    kind of normalisation has more layers than it. Where it does not, a verdict does without its
    statistics, Tent learns all norms, and steps are of `training.frozen_lr`.
    """
    return why_no_statistics(model) == ""


def why_no_statistics(model: nn.Module) -> str:
    """The reason why `carries_statistics` is false, a clause; "" where it is true."""
    count = len(batch_norm_layers(model))
    if not count:
        return KEEPS_NONE
    weighted = sum(isinstance(module, _WEIGHTED) for module in model.modules())
    norms = sum(not isinstance(m, _BatchNorm) or m.track_running_stats for m in norm_layers(model))
    if count >= LEAST_OF_WEIGHTED * weighted and count >= LEAST_OF_NORMS * norms:
        return ""
    return (
        f"the network keeps batch-norm statistics in {count} of its {norms} normalising layers, "
        f"for {weighted} with weights, too few to tell what the frames do to it"
    )


def learn_alone(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Freeze all of ``model`` but these, of those that learn; the rest needs no gradient."""
    learned = {id(parameter) for parameter in parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in learned)
    for module in model.modules():
        if isinstance(module, nn.GroupNorm) and _asking not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_asking)


def _asking(layer: nn.GroupNorm, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Ask for the gradient of a group norm's input where the layer's own is asked for.

    Where it is not, torch's backward pass (2.13, on CPUs, of images in the order of channels last)
    writes to no address.
    """
    (x, *rest) = inputs
    asked = layer.weight is not None and layer.weight.requires_grad and torch.is_grad_enabled()
    if isinstance(x, Tensor) and asked and not x.requires_grad:
        return (x.detach().requires_grad_(True), *rest)
    return None
