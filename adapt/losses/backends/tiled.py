"""The sums of `Terms` and their gradient in plain torch, a few rows of one image at a time.

`tiles` brings maps to a tile and gradients back, `tile_terms` does what lies between; here threads
share the tiles, and their parts are added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..common import at_least_float32
from .spec import Inputs, Map, Terms
from .tile_terms import Tile
from .tiles import Gradient, Room, Upsampled, Where, tiles_of
from .workers import in_parallel


@dataclass
class SumsAndGradients:
    """Sums over all pixels, and the gradients of ``coefficients . sums`` where they were given."""

    sums: Tensor  # (S,), in the order of `Terms.names`
    mass: Tensor  # sum_v w_v p_v, (K,), or empty
    logits_grad: Tensor | None = None  # float32 or wider, of the logits' shape
    prototype_grad: Tensor | None = None


@dataclass
class _Part:
    """Contribution of one thread's tiles to a `SumsAndGradients`."""

    sums: Tensor
    mass: Tensor
    logits_grad: Gradient | None
    prototype_grad: Gradient | None


def tiled_sums(
    terms: Terms,
    logits: Tensor,
    prototypes: Map | None,
    inputs: Inputs,
    coefficients: tuple[Tensor, Tensor] | None,
) -> SumsAndGradients:
    """`Terms` of ``logits`` (B, K, h, w), tile by tile, on as many threads as torch has.

    Args:
        coefficients: dL/dsums (S,) and dL/dmass (K,); without them no gradient is computed.
    """

    def work(tiles: Sequence[Where]) -> _Part:
        with torch.no_grad():
            return _sums_of(tiles, terms, logits, prototypes, inputs, coefficients)

    kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
    logits = logits.detach().to(kind)
    if prototypes is not None:
        prototypes = replace(prototypes, values=at_least_float32(prototypes.values.detach()))
    parts = in_parallel(work, tiles_of(logits, inputs.size), logits.device)

    def whole(of: Tensor, gradients: Sequence[Gradient | None]) -> Tensor | None:
        there = [gradient for gradient in gradients if gradient is not None]
        if not there:
            return None
        total = torch.zeros_like(of)
        for gradient in there:
            gradient.add_to(total)
        return total

    return SumsAndGradients(
        torch.stack([part.sums for part in parts]).sum(dim=0).to(kind),
        torch.stack([part.mass for part in parts]).sum(dim=0).to(kind),
        whole(logits, [part.logits_grad for part in parts]),
        None
        if prototypes is None
        else whole(prototypes.values, [part.prototype_grad for part in parts]),
    )


def _sums_of(
    tiles: Sequence[Where],
    terms: Terms,
    logits: Tensor,
    prototypes: Map | None,
    inputs: Inputs,
    coefficients: tuple[Tensor, Tensor] | None,
) -> _Part:
    """Sums over one tile after the other, in float64."""
    room = Room()
    z = Upsampled("z", Map(logits), inputs, room)
    t, s, q, under = (  # a tile uses up each before it comes to the next, but for the last two
        None if of is None else Upsampled(name, of, inputs, room)
        for name, of in (
            ("other", inputs.teacher),
            ("other", prototypes),
            ("other", inputs.soft),
            ("under", inputs.soft if inputs.paste is not None else None),
        )
    )
    classes = logits.shape[1] if terms.sharpness is not None else 0
    sums = z.values.new_zeros(len(terms.names), dtype=torch.float64)
    mass = z.values.new_zeros(classes, dtype=torch.float64)
    factors: tuple[dict[str, float], Tensor] | None = None
    if coefficients is not None:
        factors = (
            dict(zip(terms.names, coefficients[0].tolist(), strict=True)),
            coefficients[1],
        )
        z.take_grads(tiles)
        if s is not None and terms.prototype:
            s.take_grads(tiles)
    for where in tiles:
        tile = Tile(terms, inputs, where, factors, room)
        found = tile.run(z, t, s, q, under)
        sums += torch.stack([found[name] for name in terms.names])
        if tile.mass is not None:
            mass += tile.mass
    return _Part(sums, mass, z.grad, None if s is None else s.grad)
