"""Checkpoints of mmsegmentation: recognised by their names, and named as the networks here are.

Its networks are an ``EncoderDecoder`` of a ``backbone`` and a ``decode_head`` (auxiliary heads
beside them), and its files say the classes in ``meta``. `mmseg_layouts` has the names of those that
are networks here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...runtime.errors import NetworkError
from .mmseg_layouts import LAYOUTS, Rules

_BACKBONE, _HEAD = "backbone.", "decode_head."
_EPSILON = 1e-5  # of its batch normalisations
_STATISTICS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class MmsegCheckpoint:
    """The classes that a file of mmsegmentation says, and the place of its weights.

    Attributes:
        prefix: of its tensors' names ("state_dict.").
        class_names: in the order of the outputs; empty where ``meta`` says none.
        colours: one a class; empty where ``meta`` has none.
    """

    prefix: str
    class_names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]


def recognised(content: Any, tensors: Mapping[str, Tensor]) -> MmsegCheckpoint | None:
    """The classes in a file that is mmsegmentation's, by its names; ``None`` of any other.

    Args:
        content: as `weight_files.read_weight_file` returns it.
        tensors: the same, flat.
    """
    prefix = next((n[: n.index(_HEAD)] for n in tensors if _HEAD in n), None)
    if prefix is None or not any(n.startswith(f"{prefix}{_BACKBONE}") for n in tensors):
        return None
    meta = _mapping(content, "meta")
    data = _mapping(meta, "dataset_meta")  # of 1.x
    names = meta.get("CLASSES") or data.get("classes") or ()
    palette = meta.get("PALETTE") or data.get("palette") or ()
    classes = tuple(map(str, names)) if isinstance(names, (list, tuple)) else ()
    colours = tuple(map(tuple, palette)) if isinstance(palette, (list, tuple)) else ()
    fits = len(colours) == len(classes) and all(map(_is_colour, colours))
    return MmsegCheckpoint(prefix, classes, colours if fits else ())


def in_our_names(
    network: str, tensors: Mapping[str, Tensor], found: MmsegCheckpoint, where: str
) -> dict[str, Tensor]:
    """The file's tensors under the names of one of `LAYOUTS`; others stay as they are.

    Raises:
        NetworkError: a batch normalisation that is to be folded is not there.
    """
    layout, start = LAYOUTS[network], found.prefix
    own = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
    named: dict[str, Tensor] = {}
    for name in list(own):
        ours = _first_fit(name.removesuffix(".conv.weight"), layout.folded)
        if ours is None or not name.endswith(".conv.weight"):
            continue
        module = name.removesuffix(".conv.weight")
        named[f"{ours}.weight"], named[f"{ours}.bias"] = _folded(module, own, where)
        own = {n: t for n, t in own.items() if not n.startswith(f"{module}.")}
    for name, tensor in own.items():
        layer, _, kind = name.rpartition(".")
        ours = _first_fit(layer, layout.rules)
        named[name if ours is None else f"{ours}.{kind}"] = tensor
    for layer in layout.without_bias:
        if f"{layer}.weight" in named:
            named.setdefault(
                f"{layer}.bias", torch.zeros_like(named[f"{layer}.weight"][:, 0, 0, 0])
            )
    others = {n: t for n, t in tensors.items() if not n.startswith(start)}
    return {**others, **{f"{start}{name}": tensor for name, tensor in named.items()}}


def _first_fit(layer: str, rules: Rules) -> str | None:
    """Our name for a layer, by the first rule that fits it."""
    fits = ((re.fullmatch(pattern, layer), ours) for pattern, ours in rules)
    return next((hit.expand(ours) for hit, ours in fits if hit is not None), None)


def _folded(module: str, own: Mapping[str, Tensor], where: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does what a ConvModule does before its ReLU.

    ``y = gamma (W x - mean) / sqrt(var + eps) + beta`` is ``(s W) x + (beta - s mean)`` with
    ``s = gamma / sqrt(var + eps)``; the statistics are the running ones.
    """
    missing = [kind for kind in _STATISTICS if f"{module}.bn.{kind}" not in own]
    if missing:
        raise NetworkError(
            f"{where}: has {module}.conv without its batch normalisation ({missing[0]}), as no "
            "checkpoint of mmsegmentation does; give one as it was saved."
        )
    gamma, beta, mean, variance = (own[f"{module}.bn.{kind}"].double() for kind in _STATISTICS)
    weight = own[f"{module}.conv.weight"]
    scale = gamma / (variance + _EPSILON).sqrt()
    folded = weight.double() * scale[:, None, None, None]
    return folded.to(weight.dtype), (beta - scale * mean).to(weight.dtype)


def _mapping(value: Any, key: str) -> Mapping[str, Any]:
    below = value.get(key) if isinstance(value, Mapping) else None
    return below if isinstance(below, Mapping) else {}


def _is_colour(colour: tuple[Any, ...]) -> bool:
    return len(colour) == 3 and all(
        isinstance(c, int) and not isinstance(c, bool) and 0 <= c <= 255 for c in colour
    )
