"""`pixel_sums`: the sums of `Terms` by one of the backends, for autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .spec import Inputs, Kernel, Map, Terms
from .tiled import SumsAndGradients, tiled_sums

Compute = Callable[
    [Terms, Tensor, Map | None, Inputs, tuple[Tensor, Tensor] | None],
    SumsAndGradients,
]


def pixel_sums(
    terms: Terms,
    logits: Tensor,
    inputs: Inputs,
    prototypes: Tensor | None = None,
    *,
    kernel: Kernel,
    expected: Mapping[str, float | Tensor] | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """The sums of ``terms`` over all pixels, without a tensor of the pixels' size.

    Args:
        logits: the student's, (B, K, h, w); gradients flow.
        prototypes: similarities s, (B, K, h', w'); gradients flow through CE(p', y_t).
        expected: dL/dsum of every sum, where it is known beforehand, up to a common factor. The
            tiled kernel then makes sums and gradient in one pass; it makes a second one where the
            gradient turns out to be another.

    Returns:
        The sums by name, scalars; and sum_v w_v p_v, (K,), empty unless ``sharpness`` is set. In
        float32, or float64 for logits in float64. The same bits on every run.
    """
    if not len(logits):  # no pixel: every sum is zero, and so is its gradient
        kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
        zero = logits.sum().to(kind)
        mass = zero.expand(logits.shape[1] if terms.sharpness is not None else 0)
        return dict.fromkeys(terms.names, zero), mass
    wanted = torch.is_grad_enabled() and (
        logits.requires_grad or (prototypes is not None and prototypes.requires_grad)
    )
    guess = None
    if wanted and expected is not None and kernel == "tiled":
        kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
        values = [torch.as_tensor(expected[name], dtype=kind) for name in terms.names]
        guess = torch.stack([value.to(logits.device) for value in values])
    sums, mass = _PixelSums.apply(  # type: ignore[no-untyped-call]
        logits, prototypes, terms, inputs, _compute(kernel), guess
    )
    return dict(zip(terms.names, sums.unbind(), strict=True)), mass


def weighted_sums(
    terms: Terms,
    logits: Tensor,
    inputs: Inputs,
    prototypes: Tensor | None = None,
    *,
    kernel: Kernel,
    factors: Mapping[str, float | Tensor],
    titles: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """Each of `pixel_sums` times its constant factor, in one pass where the kernel can.

    Args:
        titles: what the loss calls a sum, by the sum's name, where that is another.
    """
    sums, _ = pixel_sums(terms, logits, inputs, prototypes, kernel=kernel, expected=factors)
    titles = titles or {}
    return {
        titles.get(name, name): (factors[name] * value).to(value.dtype)
        for name, value in sums.items()
    }


def _compute(kernel: Kernel) -> Compute:
    if kernel == "tiled":
        return tiled_sums
    from .triton_backend import triton_sums  # Triton is not everywhere

    return triton_sums


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
