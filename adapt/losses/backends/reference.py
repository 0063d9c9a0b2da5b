"""The sums of `Terms` as their equations stand, in plain torch on maps of the pixels' size.

What the fused backends are tested against; the symbols are those of `spec`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

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
        z = upsample(logits, inputs.size, inputs.align_corners)
        sums, mass = dict[str, Tensor](), z.new_zeros(0)
        if terms.soft is not None:
            sums["soft"] = _soft(z, terms, inputs)
        if terms.names == tuple(sums):
            return sums, mass
        log_p = z.log_softmax(dim=1)
        teacher, labels = _teacher(inputs)
        if terms.cross_entropy:
            sums["cross_entropy"] = _cross_entropy(log_p, labels, teacher, terms, inputs)
        if prototypes is not None:
            s = upsample(prototypes, inputs.size, inputs.align_corners)
            sums |= _prototypes(log_p, s, labels, terms, inputs)
        if terms.entropy:
            sums["entropy"] = pixel_entropy(log_p, terms.epsilon).sum()
        if terms.curriculum is not None:
            sums["curriculum"] = _curriculum(log_p, terms.curriculum, terms.detach_focus)
        if terms.sharpness:
            sums["certainty"], mass = confident_mass(
                log_p, terms.sharpness, detach_weight=terms.detach_certainty
            )
        elif terms.sharpness is not None:  # every pixel counts alike
            p = z.softmax(dim=1)
            sums["certainty"], mass = p.new_tensor(p[:, 0].numel()), p.sum(dim=(0, 2, 3))
        if terms.negative_below is not None and terms.negative_jointly:
            sums["negative"] = _unlikely_together(log_p, terms.negative_below).sum()
        elif "negative" in terms.names:
            sums["negative"] = -torch.log1p(-_unlikely(log_p, terms, inputs)).sum(dim=1).sum()
        return sums, mass

    def scaled(self, total: Tensor, share: Share) -> Tensor:
        """The weight times the mean."""
        return share.weight * (total / share.over)

    def soft_mass(self, inputs: Inputs) -> Tensor:
        """sum_v q_v, (K,)."""
        return _soft_labels(inputs).sum(dim=(0, 2, 3))


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


def normalised_pixel_entropy(log_p: Tensor) -> Tensor:
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
    w = (-sharpness * normalised_pixel_entropy(log_p)).exp()
    w = w.detach() if detach_weight else w
    return w.sum(), (log_p.exp() * w[:, None]).sum(dim=(0, 2, 3))


# --- the sums ---


def _teacher(inputs: Inputs) -> tuple[Tensor | None, Tensor | None]:
    """t, (B, K, H, W), constant; and y, or y^ = argmax t where no labels are given, (B, H, W)."""
    if inputs.teacher is None:
        return None, inputs.labels
    t = upsample_map(inputs.teacher, inputs.size, align_corners=inputs.align_corners).detach()
    return t, t.max(dim=1).indices if inputs.labels is None else inputs.labels


def _cross_entropy(
    log_p: Tensor, labels: Tensor | None, teacher: Tensor | None, terms: Terms, inputs: Inputs
) -> Tensor:
    assert labels is not None
    ce = partial(F.nll_loss, log_p, labels, inputs.class_weights, ignore_index=IGNORED)
    if teacher is None and inputs.pixel_weights is None:
        return ce(reduction="sum")
    weighted = ce(reduction="none")
    if teacher is not None:
        of_logits = terms.importance_of_logits
        weighted = importance_map(teacher, terms.importance, of_logits=of_logits) * weighted
    if inputs.pixel_weights is not None:
        weighted = inputs.pixel_weights * weighted
    return weighted.sum()


def _prototypes(
    log_p: Tensor, s: Tensor, labels: Tensor | None, terms: Terms, inputs: Inputs
) -> dict[str, Tensor]:
    sums, present, a = dict[str, Tensor](), inputs.present, inputs.prototype_class_weights
    if present is not None:
        s = s.masked_fill(~present[:, :, None, None], float("-inf"))
    y_prime, y_student = (scores.detach().max(dim=1).indices for scores in (s, log_p))
    y_prime = y_prime if inputs.nearest is None else inputs.nearest
    ce = F.nll_loss(log_p, y_prime, reduction="none")
    if terms.agreement:
        agrees = y_prime == (y_student if terms.agree_with == "student" else labels)
        sums["agreement"] = (agrees * (ce if a is None else ce * a[y_prime])).sum()
    if terms.prototype:
        target = y_student
        if present is not None:
            has_prototype = present.gather(1, y_student.flatten(1)).view_as(y_student)
            target = y_student.where(has_prototype, IGNORED)
        reverse = F.cross_entropy(s, target, ignore_index=IGNORED, reduction="none")
        sums["prototype"] = (ce + reverse).sum()
    return sums


def _curriculum(log_p: Tensor, gamma: float, detach_focus: bool) -> Tensor:
    h = normalised_pixel_entropy(log_p)
    certainty = 1 - (h.detach() if detach_focus else h)
    # A power of 0 below 1 would have an infinite gradient.
    focus = certainty.clamp(min=torch.finfo(h.dtype).tiny) ** gamma
    return (focus * h).sum()


def _unlikely(log_p: Tensor, terms: Terms, inputs: Inputs) -> Tensor:
    """p of the classes that "negative" is about, (B, some, H, W); 0 for those it is not about."""
    if terms.negative_below is not None:
        p = log_p.exp()
        return p.masked_fill(p.detach() >= terms.negative_below, 0.0)  # p may be 1
    ranks = inputs.ranks
    assert ranks is not None
    descending = log_p.detach().topk(int(ranks.max()), dim=1).indices
    complement = descending.gather(1, ranks.expand(log_p[:, 0].shape)[:, None] - 1)
    return log_p.gather(1, complement).exp()


def _unlikely_together(log_p: Tensor, below: float) -> Tensor:
    """-log(1 - sum_c 1[p_c < below] p_c), (B, H, W); 0 where no class is likelier."""
    likely = log_p.detach().exp() >= below
    likely = likely | ~likely.any(dim=1, keepdim=True)  # all of them: -log 1
    return -log_p.masked_fill(~likely, float("-inf")).logsumexp(dim=1)


def _soft(z: Tensor, terms: Terms, inputs: Inputs) -> Tensor:
    q, a = _soft_labels(inputs, as_logits=terms.soft == "logits"), inputs.soft_class_weights
    product = q * z.log_softmax(dim=1)
    if a is None:
        return -product.sum()
    return ((a[:, None, None] * q).sum(dim=1) * -product.sum(dim=1)).sum()


def _soft_labels(inputs: Inputs, *, as_logits: bool = False) -> Tensor:
    """q, (B, K, H, W), each pixel from the image that it is of."""
    assert inputs.soft is not None
    q = upsample_map(inputs.soft, inputs.size, align_corners=inputs.align_corners)
    q = q.softmax(dim=1) if as_logits else q
    paste = inputs.paste
    return q if paste is None else q.where(paste.over[:, None], q[paste.under])
