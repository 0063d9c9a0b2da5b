"""One call for the sums of `Terms`, whatever computes them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .fused import Fused
from .reference import Reference
from .spec import Inputs, Kernel, Share, Terms
from .tiled import tiled_sums


def pixel_sums(
    terms: Terms,
    logits: Tensor,
    inputs: Inputs,
    prototypes: Tensor | None = None,
    *,
    kernel: Kernel,
    expected: Mapping[str, float | Tensor] | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """The sums of ``terms`` over all pixels.

    Args:
        logits: the student's, (B, K, h, w); gradients flow.
        prototypes: similarities s, (B, K, h', w'); gradients flow through CE(p', y_t).
        expected: dL/dsum of every sum, where it is known beforehand, up to a common factor. The
            tiled kernel then makes sums and gradient in one pass; it makes a second one where the
            gradient turns out to be another.

    Returns:
        The sums by name, scalars; and sum_v w_v p_v, (K,), empty unless ``sharpness`` is set. In
        float32, or float64 for logits in float64.
    """
    if not len(logits):  # no pixel: every sum is zero, and so is its gradient
        kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
        zero = logits.sum().to(kind)
        mass = zero.expand(logits.shape[1] if terms.sharpness is not None else 0)
        return dict.fromkeys(terms.names, zero), mass
    return _backend(kernel).sums(terms, logits, inputs, prototypes, expected)


def weighted_sums(
    terms: Terms,
    logits: Tensor,
    inputs: Inputs,
    shares: Mapping[str, Share],
    prototypes: Tensor | None = None,
    *,
    kernel: Kernel,
) -> dict[str, Tensor]:
    """A loss that is linear in `pixel_sums`, in one pass where the kernel can.

    Args:
        shares: the loss's terms by their names; those whose sum is not selected are left out.
    """
    taken = {title: share for title, share in shares.items() if share.of in terms.names}
    expected = {share.of: share.factor for share in taken.values()}
    sums, _ = pixel_sums(terms, logits, inputs, prototypes, kernel=kernel, expected=expected)
    backend = _backend(kernel)
    return {title: backend.scaled(sums[share.of], share) for title, share in taken.items()}


def soft_mass(inputs: Inputs, kernel: Kernel) -> Tensor:
    """sum_v q_v of the soft labels over the pixels of all images, (K,), a constant."""
    return _backend(kernel).soft_mass(inputs)


def _backend(kernel: Kernel) -> Reference | Fused:
    if kernel == "reference":
        return Reference()
    if kernel == "tiled":
        return Fused(tiled_sums, in_one_pass=True)
    from .triton_backend import triton_sums  # Triton is not everywhere

    return Fused(triton_sums, in_one_pass=False)
