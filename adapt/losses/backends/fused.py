"""The sums of `Terms` for autograd, by a function that gives sums and gradients itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .spec import Inputs, Map, Share, Terms
from .taps import mass_of_pixels
from .tiled import SumsAndGradients

Compute = Callable[
    [Terms, Tensor, Map | None, Inputs, tuple[Tensor, Tensor] | None],
    SumsAndGradients,
]


@dataclass(frozen=True)
class Fused:
    """Backend without a tensor of the pixels' size. The same bits on every run."""

    compute: Compute
    in_one_pass: bool  # whether ``compute`` gives sums and gradients at once

    def sums(
        self,
        terms: Terms,
        logits: Tensor,
        inputs: Inputs,
        prototypes: Tensor | None,
        expected: Mapping[str, float | Tensor] | None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """`core.pixel_sums`; with ``expected``, in one pass where ``compute`` can."""
        wanted = torch.is_grad_enabled() and (
            logits.requires_grad or (prototypes is not None and prototypes.requires_grad)
        )
        guess = None
        if wanted and expected is not None and self.in_one_pass:
            kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
            values = [torch.as_tensor(expected[name], dtype=kind) for name in terms.names]
            guess = torch.stack([value.to(logits.device) for value in values])
        sums, mass = _PixelSums.apply(  # type: ignore[no-untyped-call]
            logits, prototypes, terms, inputs, self.compute, guess
        )
        return dict(zip(terms.names, sums.unbind(), strict=True)), mass

    def scaled(self, total: Tensor, share: Share) -> Tensor:
        """By one constant factor, the one that was expected."""
        return (share.factor * total).to(total.dtype)

    def soft_mass(self, inputs: Inputs) -> Tensor:
        """sum_v q_v, (K,), from the cells of the map and how often each counts."""
        soft, paste, size = inputs.soft, inputs.paste, inputs.size
        assert soft is not None
        if paste is None and tuple(soft.values.shape[2:]) == tuple(size) and soft.windows is None:
            # Element by element: a product of matrices would run in half precision under autocast.
            return soft.values.sum(dim=(0, 2, 3))
        counts = torch.ones(len(soft.values), *size, device=soft.values.device)
        if paste is not None:
            counts = paste.over.to(counts.dtype)
            counts.index_add_(0, paste.under, 1 - counts)
        return mass_of_pixels(soft, counts, size, align_corners=inputs.align_corners).sum(dim=0)


class _PixelSums(torch.autograd.Function):
    """Keeps the low-resolution logits, and recomputes everything else on the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        prototypes: Tensor | None,
        terms: Terms,
        inputs: Inputs,
        compute: Compute,
        guess: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.terms, ctx.inputs, ctx.compute, ctx.guess = terms, inputs, compute, guess
        ctx.save_for_backward(logits, prototypes)
        coefficients = None if guess is None else (guess, guess.new_zeros(logits.shape[1]))
        of = None if prototypes is None else Map(prototypes)
        with torch.autocast(logits.device.type, enabled=False):
            result = compute(terms, logits, of, inputs, coefficients)
        ctx.gradients = (result.logits_grad, result.prototype_grad)
        return result.sums, result.mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sums: Tensor, of_mass: Tensor) -> Any:
        logits, prototypes = ctx.saved_tensors
        factor = None if ctx.guess is None else _common_factor(of_sums, ctx.guess)
        if factor is not None:
            gradients = ctx.gradients
            if factor != 1:
                gradients = tuple(g if g is None else g * factor for g in gradients)
        else:
            of = None if prototypes is None else Map(prototypes)
            coefficients = (of_sums, of_mass)
            with torch.autocast(logits.device.type, enabled=False):
                result = ctx.compute(ctx.terms, logits, of, ctx.inputs, coefficients)
            gradients = (result.logits_grad, result.prototype_grad)
        for_logits, for_prototypes = (
            None if gradient is None else gradient.to(value.dtype)
            for gradient, value in zip(gradients, (logits, prototypes), strict=True)
        )
        return for_logits, for_prototypes, None, None, None, None


def _common_factor(values: Tensor, guess: Tensor) -> Tensor | None:
    """x with values = x guess, up to rounding; ``None`` where there is none."""
    largest = guess.abs().argmax()
    factor = values[largest] / guess[largest]
    few_bits = 4 * torch.finfo(values.dtype).eps
    return factor if torch.allclose(values, factor * guess, rtol=few_bits, atol=0) else None
