"""Batch-norm layers of a network, and their folding into the convolutions before them."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .copies import view_of

Model = TypeVar("Model", bound=nn.Module)


def batch_norm_layers(model: nn.Module) -> list[_BatchNorm]:
    """The layers of ``model`` that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def fold_batch_norm(model: Model) -> Model:
    """``model``, changed in place: batch norm becomes part of the convolution that it follows.

    The outputs stay the same up to rounding, for a model that stays in evaluation mode; a forward
    pass has fewer passes over its activations. Only neighbours in an `nn.Sequential` are folded,
    where the order is certain, and only plain ones: used once, without hooks.
    """
    for parent, i, conv, norm in _foldable(model):
        parent[i], parent[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return model


def folding_view(model: Model) -> Model:
    """A model that shares every tensor of ``model`` and folds its batch norm anew in each pass.

    For a model in evaluation mode whose tensors change in place between passes, such as a moving
    average; it is for passes without gradients. `fold_batch_norm` says what is folded, here only
    batch norm with weights of its own.
    """
    view = view_of(model)
    folding: list[_FoldingConv] = []
    for parent, i, conv, norm in _foldable(view):
        if norm.affine:
            folding.append(_FoldingConv(conv, norm))
            parent[i], parent[i + 1] = folding[-1], nn.Identity()

    def fold(*_: object) -> None:  # for all layers at once: each call is a launch on a GPU
        norms = [layer.norm for layer in folding]
        means, variances = (
            [n.get_buffer(name) for n in norms] for name in ("running_mean", "running_var")
        )
        scales = torch._foreach_add(variances, [n.eps for n in norms])
        torch._foreach_sqrt_(scales)
        scales = torch._foreach_div([n.weight for n in norms], scales)
        shifts = torch._foreach_sub([n.bias for n in norms], torch._foreach_mul(means, scales))
        for layer, scale, shift in zip(folding, scales, shifts, strict=True):
            layer.scale, layer.shift = scale, shift

    if folding:
        view.register_forward_pre_hook(fold)
    return view


class _FoldingConv(nn.Module):
    """A convolution and the batch norm behind it, of whose ``scale`` and ``shift`` it is told."""

    scale: Tensor  # (output channels,)
    shift: Tensor

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x: Tensor) -> Tensor:
        """Compute convolution and batch norm as one convolution, equal up to rounding."""
        conv, bias = self.conv, self.shift
        if conv.bias is not None:
            bias = torch.addcmul(bias, conv.bias, self.scale)
        folded: Tensor = conv._conv_forward(x, conv.weight * self.scale[:, None, None, None], bias)
        return folded


def _foldable(model: nn.Module) -> list[tuple[nn.Sequential, int, nn.Conv2d, nn.BatchNorm2d]]:
    """Every convolution that a batch norm in evaluation mode follows, and where it is."""
    modules = list(model.named_modules(remove_duplicate=False))
    uses = Counter(id(module) for _, module in modules)

    def plain(module: nn.Module, kind: type[nn.Module]) -> bool:
        hooks = module._forward_hooks or module._forward_pre_hooks
        return type(module) is kind and uses[id(module)] == 1 and not hooks

    found = []
    for _, parent in modules:
        if type(parent) is not nn.Sequential:
            continue
        for i, (conv, norm) in enumerate(itertools.pairwise(list(parent))):
            if not (plain(conv, nn.Conv2d) and plain(norm, nn.BatchNorm2d)):
                continue
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            if norm.track_running_stats and not norm.training:
                found.append((parent, i, conv, norm))
    return found
