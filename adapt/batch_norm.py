"""Batch-norm statistics re-estimated on target frames: no gradient, no label.

Source: Li et al., "Revisiting batch normalization for practical domain adaptation"
(arXiv:1603.04779).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .lone_values import Note, lone_values_allowed
from .networks.copies import view_of

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
        """What the batch norm would give, up to rounding."""
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


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module, batches: Iterable[Tensor], note: Note = lambda _: None
) -> int:
    """Replace every running mean and variance by their mean over ``batches``.

    Each batch is normalised with its own statistics while it passes, every other layer is in
    evaluation mode, and the statistics of all batches count alike (a cumulative average, so the
    order of the frames does not matter). A layer that no batch reaches keeps what it had; so does
    one that sees one value a channel, behind global pooling in a batch of one frame, for that batch
    (see `lone_values`).

    Args:
        model: changed in place: only batch-norm buffers. Its training mode is restored.
        batches: network inputs, (B, 3, H, W).
        note: told which layer saw a lone value.

    Returns:
        How many layers were re-estimated; 0 leaves the model as it was.
    """
    layers = batch_norm_layers(model)
    if not layers:
        return 0
    modes = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in layers]
    kept = [[buffer.clone() for buffer in layer.buffers()] for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    before = {layer: _statistics(layer, held) for layer, held in zip(layers, kept, strict=True)}
    try:
        with lone_values_allowed(model, note, before):
            for images in batches:
                model.forward(images)  # not model(): torch.compile would compile a pass of its own
    finally:
        unreached = 0
        for layer, momentum, buffers in zip(layers, momenta, kept, strict=True):
            layer.momentum = momentum
            if layer.num_batches_tracked == 0:
                unreached += 1
                for buffer, old in zip(layer.buffers(), buffers, strict=True):
                    buffer.copy_(old)
        model.train(modes[model])
        for module, training in modes.items():
            module.training = training
    return len(layers) - unreached


def _statistics(layer: _BatchNorm, held: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Running mean and variance among copies of the layer's buffers, in their order."""
    named = dict(zip((name for name, _ in layer.named_buffers()), held, strict=True))
    return named["running_mean"], named["running_var"]
