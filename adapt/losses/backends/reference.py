"""The sums of `Terms` as their equations stand, in plain torch on maps of the pixels' size.

What the fused backends are tested against; the symbols are those of `spec`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common import IGNORED, at_least_float32, upsample
from .spec import Importance, Inputs, Share, Terms
from .taps import upsample_map


class Reference:
    """Backend that autograd differentiates operation by operation."""

    def sums(
        self,
        terms: Terms,
        logits: Tensor,
        inputs: Inputs,
        prototypes: Tensor | None,
        expected: Mapping[str, float | Tensor] | None,  # noqa: ARG002 - it gains nothing by it
    ) -> tuple[dict[str, Tensor], Tensor]:
        """`core.pixel_sums`, as autograd takes them."""
        v = _Pixels(terms, logits, inputs, prototypes)
        sums = {name: equation(v) for name, equation in EQUATIONS.items() if name in terms.names}
        return sums, v.z.new_zeros(0) if terms.sharpness is None else v.confident[1]

    def scaled(self, total: Tensor, share: Share) -> Tensor:
        """The weight times the mean."""
        return share.weight * (total / share.over)

    def soft_mass(self, inputs: Inputs) -> Tensor:
        """sum_v q_v, (K,)."""
        return _soft_labels(inputs).sum(dim=(0, 2, 3))


class _Pixels:
    """Maps at the pixels that several sums share, each made when it is first asked for."""

    def __init__(
        self, terms: Terms, logits: Tensor, inputs: Inputs, prototypes: Tensor | None
    ) -> None:
        self.terms, self.inputs = terms, inputs
        self._logits, self._prototypes = logits, prototypes

    @cached_property
    def z(self) -> Tensor:
        """The student's logits, (B, K, H, W)."""
        return upsample(self._logits, self.inputs.size, self.inputs.align_corners)

    @cached_property
    def log_p(self) -> Tensor:
        """log p, (B, K, H, W)."""
        return self.z.log_softmax(dim=1)

    @cached_property
    def teacher(self) -> Tensor | None:
        """t, (B, K, H, W)."""
        inputs = self.inputs
        if inputs.teacher is None:
            return None
        t = upsample_map(inputs.teacher, inputs.size, align_corners=inputs.align_corners)
        return t.detach()

    @cached_property
    def labels(self) -> Tensor:
        """y, or y^ = argmax t where no labels are given, (B, H, W)."""
        if self.inputs.labels is not None:
            return self.inputs.labels
        assert self.teacher is not None
        return self.teacher.max(dim=1).indices

    @cached_property
    def s(self) -> Tensor:
        """Similarities to the prototypes, -inf where a class has none, (B, K, H, W)."""
        assert self._prototypes is not None
        s = upsample(self._prototypes, self.inputs.size, self.inputs.align_corners)
        present = self.inputs.present
        return s if present is None else s.masked_fill(~present[:, :, None, None], float("-inf"))

    @cached_property
    def nearest(self) -> Tensor:
        """y' = argmax p', (B, H, W)."""
        return self.s.detach().max(dim=1).indices

    @cached_property
    def own(self) -> Tensor:
        """y_t = argmax p, (B, H, W)."""
        return self.log_p.detach().max(dim=1).indices

    @cached_property
    def nearest_cross_entropy(self) -> Tensor:
        """CE(p, y'), (B, H, W)."""
        return F.nll_loss(self.log_p, self.nearest, reduction="none")

    @cached_property
    def confident(self) -> tuple[Tensor, Tensor]:
        """sum_v w_v and sum_v w_v p_v, (K,), with w = exp(-lambda h)."""
        sharpness, detach_weight = self.terms.sharpness, self.terms.detach_certainty
        if not sharpness:  # every pixel counts alike
            p = self.z.softmax(dim=1)
            return p.new_tensor(p[:, 0].numel()), p.sum(dim=(0, 2, 3))
        return confident_mass(self.log_p, sharpness, detach_weight=detach_weight)


# --- maps that are worth a test of their own ---


def importance_map(teacher_logits: Tensor, kind: Importance, *, of_logits: bool = False) -> Tensor:
    """Importance map: the trust in the teacher's pseudo-label of each pixel.

    With s_1 >= s_2 the two largest entries of softmax t (of the logits themselves if ``of_logits``,
    as IAPC's authors' code has it; the result can then leave [0, 1], and is 0 where s_1 = 0):

        margin_ratio       w = 1 - s_2 / s_1   (eq. 4 of arXiv:2306.01598)
        none               w = 1               ("RPL" of its Table IV)
        first              w = s_1             ("FPL")
        one_minus_second   w = 1 - s_2         ("SPL")

    Args:
        teacher_logits: (B, K, H, W), at pixel resolution.

    Returns:
        (B, H, W), float32 or wider, a constant for autograd.
    """
    z = at_least_float32(teacher_logits.detach())
    if kind == "none":
        return torch.ones_like(z[:, 0])
    scores = z if of_logits else z.softmax(dim=1)
    first, second = scores.topk(2, dim=1).values.unbind(dim=1)
    if kind == "first":
        return first
    if kind == "one_minus_second":
        return 1 - second
    ratio = second / first.where(first != 0, 1)
    return torch.where(first != 0, 1 - ratio, torch.zeros_like(first))


def pixel_entropy(log_p: Tensor, epsilon: float = 0.0) -> Tensor:
    """-sum_c p_c log(p_c + epsilon) in nats, (B, H, W), of log-softmax (B, K, H, W)."""
    p = log_p.exp()
    log_term = log_p if epsilon == 0 else (p + epsilon).log()
    return -(p * log_term).sum(dim=1)


def normalised_entropy(log_p: Tensor) -> Tensor:
    """h = -1/log K * sum_c p_c log p_c, in [0, 1].

    Args:
        log_p: log-softmax, (B, K, H, W).

    Returns:
        (B, H, W), of the same dtype.
    """
    entropy = pixel_entropy(log_p) / math.log(log_p.shape[1])
    return entropy + (entropy.clamp(0, 1) - entropy).detach()  # rounding alone can leave [0, 1]


def confident_mass(
    log_p: Tensor, sharpness: float, *, detach_weight: bool
) -> tuple[Tensor, Tensor]:
    """sum_v w_v and sum_v w_v p_v  with w = exp(-sharpness h), over all pixels v of the batch.

    Args:
        log_p: log-softmax, (B, K, H, W).
        detach_weight: treat w as a constant.

    Returns:
        A scalar and (K,).
    """
    w = (-sharpness * normalised_entropy(log_p)).exp()
    w = w.detach() if detach_weight else w
    return w.sum(), (log_p.exp() * w[:, None]).sum(dim=(0, 2, 3))


# --- the sums ---


def _cross_entropy(v: _Pixels) -> Tensor:
    terms, inputs = v.terms, v.inputs
    ce = partial(F.nll_loss, v.log_p, v.labels, inputs.class_weights, ignore_index=IGNORED)
    if v.teacher is None and inputs.pixel_weights is None:
        return ce(reduction="sum")
    weighted = ce(reduction="none")
    if v.teacher is not None:
        of_logits = terms.importance_of_logits
        weighted = importance_map(v.teacher, terms.importance, of_logits=of_logits) * weighted
    if inputs.pixel_weights is not None:
        weighted = inputs.pixel_weights * weighted
    return weighted.sum()


def _agreement(v: _Pixels) -> Tensor:
    agrees = v.nearest == (v.own if v.terms.agree_with == "student" else v.labels)
    a, ce = v.inputs.prototype_class_weights, v.nearest_cross_entropy
    return (agrees * (ce if a is None else ce * a[v.nearest])).sum()


def _prototype(v: _Pixels) -> Tensor:
    target, present = v.own, v.inputs.present
    if present is not None:
        has_prototype = present.gather(1, target.flatten(1)).view_as(target)
        target = target.where(has_prototype, IGNORED)
    reverse = F.cross_entropy(v.s, target, ignore_index=IGNORED, reduction="none")
    return (v.nearest_cross_entropy + reverse).sum()


def _curriculum(v: _Pixels) -> Tensor:
    h, gamma = normalised_entropy(v.log_p), v.terms.curriculum
    assert gamma is not None
    certainty = 1 - (h.detach() if v.terms.detach_focus else h)
    # A power of 0 below 1 would have an infinite gradient.
    focus = certainty.clamp(min=torch.finfo(h.dtype).tiny) ** gamma
    return (focus * h).sum()


def _negative(v: _Pixels) -> Tensor:
    below, ranks = v.terms.negative_below, v.inputs.ranks
    if below is not None:
        p = v.log_p.exp()
        unlikely = p.masked_fill(p.detach() >= below, 0.0)  # not after the log: p may be 1
    else:
        assert ranks is not None
        descending = v.log_p.detach().topk(int(ranks.max()), dim=1).indices
        complement = descending.gather(1, ranks.expand(v.log_p[:, 0].shape)[:, None] - 1)
        unlikely = v.log_p.gather(1, complement).exp()
    return -torch.log1p(-unlikely).sum(dim=1).sum()


def _soft(v: _Pixels) -> Tensor:
    q, a = _soft_labels(v.inputs, v.terms.soft), v.inputs.soft_class_weights
    product = q * v.z.log_softmax(dim=1)
    if a is None:
        return -product.sum()
    return ((a[:, None, None] * q).sum(dim=1) * -product.sum(dim=1)).sum()


def _soft_labels(inputs: Inputs, given: str | None = "probabilities") -> Tensor:
    """q, (B, K, H, W), each pixel from the image that it is of."""
    assert inputs.soft is not None
    q = upsample_map(inputs.soft, inputs.size, align_corners=inputs.align_corners)
    q = q.softmax(dim=1) if given == "logits" else q
    paste = inputs.paste
    return q if paste is None else q.where(paste.over[:, None], q[paste.under])


# In the order in which they are made, and their gradients added up.
EQUATIONS: Mapping[str, Callable[[_Pixels], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "agreement": _agreement,
    "prototype": _prototype,
    "entropy": lambda v: pixel_entropy(v.log_p, v.terms.epsilon).sum(),
    "curriculum": _curriculum,
    "certainty": lambda v: v.confident[0],
    "negative": _negative,
    "soft": _soft,
}
