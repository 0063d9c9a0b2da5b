"""Every sum of `Terms` over one tile, and its gradient, in plain torch.

The tile goes through softmax and every term while it is in the cache. With u_c = dL/d log p_c,
dL/dz = u - p sum_c u_c; every term gives its u either as p times something per class, which joins
one factor, or on a single class of each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .spec import Inputs, Terms
from .tiles import Room, Upsampled, Where, absent_classes, argmax_of

NO_LABEL = 255


class Tile:
    """N pixels of one image: (K, N) values, (N,) maps."""

    def __init__(
        self,
        terms: Terms,
        inputs: Inputs,
        where: Where,
        coefficients: tuple[Mapping[str, float], Tensor] | None,
        room: Room,
    ) -> None:
        self.terms, self.inputs, self.where, self.room = terms, inputs, where, room
        self.coefficients = coefficients
        self.sums: dict[str, Tensor] = {}
        self.mass: Tensor | None = None
        # dL/dz = p (per_pixel - slope d + per_class) + alone, and -weight at one class of a pixel
        self.per_pixel: Tensor | None = None  # (N,)
        self.slope: Tensor | None = None  # (N,), dL/dentropy
        self.per_class: Tensor | None = None  # (K, N)
        self.alone: Tensor | None = None  # (K, N)
        self.once: list[tuple[Tensor, Tensor]] = []

    def run(
        self,
        z: Upsampled,
        t: Upsampled | None,
        s: Upsampled | None,
        q: Upsampled | None,
        under: Upsampled | None,
    ) -> dict[str, Tensor]:
        """All sums by name; gradients go to ``z`` and ``s`` where there are coefficients.

        Args:
            under: ``q`` in memory of its own, where pixels are pasted.
        """
        terms, inputs, where = self.terms, self.inputs, self.where
        self.d = z.tile(where)  # log p = d - log_sum
        self.d.sub_(self.d.amax(dim=0))
        self.p = torch.exp(self.d, out=self._scratch("p"))
        total = self.p.sum(dim=0)
        self.log_sum = total.log()
        self.p.mul_(1 / total)
        y = self._map(inputs.labels)
        trust = None
        if t is not None:
            y, trust = self._teacher(t.tile(where), y)
        if terms.cross_entropy:
            assert y is not None
            self._cross_entropy(y.long(), trust)
        if s is not None:
            self._prototypes(s, y)
        self._certainty()
        if terms.negative_below is not None and terms.negative_jointly:
            self._negative_jointly(terms.negative_below)
        elif terms.negative_below is not None:
            self._negative_below(terms.negative_below)
        elif terms.negative_rank:
            self._negative_rank()
        if q is not None:
            self._soft(self._soft_labels(q, under))
        if self.coefficients is not None:
            z.add_grad(where, self._gradient())
        return self.sums

    # --- what the terms share ---

    def _scratch(self, name: str) -> Tensor:
        return self.room(name, self.d, *self.d.shape)

    def _map(self, of: Tensor | None) -> Tensor | None:
        """The tile's part of (B, H, W), flat."""
        return None if of is None else self.where.of(of).flatten()

    def _coefficient(self, name: str) -> float | None:
        return None if self.coefficients is None else self.coefficients[0][name]

    def _minus_log_p(self, of: Tensor) -> Tensor:
        return self.log_sum - self.d.gather(0, of[None])[0]

    def _learn(self, classes: Tensor, weight: Tensor) -> None:
        """Take the gradient of weight * CE(p, classes)."""
        self.once.append((classes, weight))
        self._pull(weight)

    def _pull(self, weight: Tensor) -> None:
        self.per_pixel = weight if self.per_pixel is None else self.per_pixel + weight

    def _incline(self, change: Tensor) -> None:
        self.slope = change if self.slope is None else self.slope + change

    def _stand_alone(self, u: Tensor) -> None:
        """Take the gradient of what has dL/dlog p = u."""
        self.alone = u if self.alone is None else self.alone + u
        self._pull(-u.sum(dim=0))

    # --- the terms ---

    def _teacher(self, t: Tensor, y: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Labels, where none are given, and importance (`importance_map`); ``t`` is used up."""
        terms = self.terms
        first = t.amax(dim=0)
        best = argmax_of(t, first, self.room)
        y = best if y is None else y
        if terms.importance == "none":
            return y, None
        total = None
        if not terms.importance_of_logits and terms.importance != "margin_ratio":
            total = torch.sub(t, first, out=self._scratch("scratch")).exp_().sum(dim=0)
        second = t.scatter_(0, best[None], float("-inf")).amax(dim=0)
        if not terms.importance_of_logits:
            if total is None:
                return y, 1 - (second - first).exp()
            first, second = 1 / total, (second - first).exp() / total
        if terms.importance == "first":
            return y, first
        if terms.importance == "one_minus_second":
            return y, 1 - second
        ratio = second / first.where(first != 0, 1)
        return y, torch.where(first != 0, 1 - ratio, torch.zeros_like(first))

    def _cross_entropy(self, y: Tensor, trust: Tensor | None) -> None:
        inputs = self.inputs
        labelled = y != NO_LABEL
        y = y.where(labelled, 0)
        weight = labelled.to(self.d.dtype)
        for factor in (
            None if inputs.class_weights is None else inputs.class_weights[y],
            self._map(inputs.pixel_weights),
            trust,
        ):
            if factor is not None:
                weight = weight * factor
        self.sums["cross_entropy"] = (weight * self._minus_log_p(y)).sum()
        coefficient = self._coefficient("cross_entropy")
        if coefficient is not None:
            self._learn(y, coefficient * weight)

    def _prototypes(self, of: Upsampled, y: Tensor | None) -> None:
        terms, inputs = self.terms, self.inputs
        s = of.tile(self.where)
        present = None
        if inputs.present is not None:
            absent = absent_classes(inputs.present, self.where)
            if len(absent):
                present = inputs.present[self.where.image]
                s.index_fill_(0, absent, float("-inf"))
        top = s.amax(dim=0)
        given = self._map(inputs.nearest)
        y_prime = argmax_of(s, top, self.room) if given is None else given.long()
        y_student = argmax_of(self.d, torch.zeros_like(top), self.room)
        ce = self._minus_log_p(y_prime)
        learn: Tensor | None = None  # weight of CE(p, y')
        if terms.agreement:
            other = y_student if terms.agree_with == "student" or y is None else y
            weight = torch.eq(y_prime, other).to(ce.dtype)
            if inputs.prototype_class_weights is not None:
                weight = weight * inputs.prototype_class_weights[y_prime]
            self.sums["agreement"] = (weight * ce).sum()
            coefficient = self._coefficient("agreement")
            if coefficient is not None:
                learn = coefficient * weight
        if terms.prototype:
            known = torch.ones_like(ce) if present is None else present[y_student].to(ce.dtype)
            target = y_student if present is None else y_student.where(present[y_student], y_prime)
            own = s.gather(0, target[None])[0] - top
            e = s.sub_(top).exp_()
            total = e.sum(dim=0)
            self.sums["prototype"] = (ce + known * (total.log() - own)).sum()
            coefficient = self._coefficient("prototype")
            if coefficient is not None:
                learn = torch.full_like(ce, coefficient) if learn is None else learn + coefficient
                weight = coefficient * known
                grad = e.mul_(weight / total).scatter_add_(0, target[None], -weight[None])
                of.add_grad(self.where, grad)
        if learn is not None:
            self._learn(y_prime, learn)

    def _certainty(self) -> None:
        """Entropy, and everything that is made of it."""
        terms = self.terms
        if not terms.entropy and terms.curriculum is None and terms.sharpness is None:
            return
        product = torch.mul(self.p, self.d, out=self._scratch("scratch"))
        entropy = self.log_sum - product.sum(dim=0)
        if terms.entropy and terms.epsilon:
            self._smoothed_entropy()
        elif terms.entropy:
            self.sums["entropy"] = entropy.sum()
            coefficient = self._coefficient("entropy")
            if coefficient is not None:
                self._incline(torch.full_like(entropy, coefficient))
        if terms.curriculum is not None or terms.sharpness is not None:
            log_classes = math.log(len(self.p))
            h = (entropy / log_classes).clamp_(0, 1)
            if terms.curriculum is not None:
                self._curriculum(h, 1 / log_classes, terms.curriculum)
            if terms.sharpness is not None:
                self._distribution(h, 1 / log_classes, terms.sharpness)
        if self.slope is not None:  # dH/dz = -p (log p + H)
            self._pull(-self.slope * (entropy - self.log_sum))

    def _smoothed_entropy(self) -> None:
        shifted = self.p + self.terms.epsilon
        log_term = shifted.log()
        self.sums["entropy"] = -(self.p * log_term).sum()
        coefficient = self._coefficient("entropy")
        if coefficient is not None:
            u = -coefficient * (log_term + self.p / shifted)  # dL/dp
            self._divide(u, -(u * self.p).sum(dim=0))

    def _divide(self, of_p: Tensor, pull: Tensor) -> None:
        self.per_class = of_p if self.per_class is None else self.per_class + of_p
        self._pull(pull)

    def _curriculum(self, h: Tensor, rise_of_h: float, gamma: float) -> None:
        tiny = torch.finfo(h.dtype).tiny
        certainty = (1 - h).clamp(min=tiny)
        focus = certainty**gamma
        self.sums["curriculum"] = (focus * h).sum()
        coefficient = self._coefficient("curriculum")
        if coefficient is not None:
            rise = focus
            if not self.terms.detach_focus:
                rise = focus - (gamma * h * certainty ** (gamma - 1)).where(1 - h >= tiny, 0)
            self._incline(coefficient * rise * rise_of_h)

    def _distribution(self, h: Tensor, rise_of_h: float, sharpness: float) -> None:
        w = (-sharpness * h).exp()
        self.sums["certainty"] = w.sum()
        self.mass = torch.mul(self.p, w, out=self._scratch("scratch")).sum(dim=1)
        coefficient = self._coefficient("certainty")
        if coefficient is not None and self.coefficients is not None:
            of_mass = self.coefficients[1]
            along = of_mass @ self.p
            self._divide(of_mass[:, None] * w, -w * along)
            if not self.terms.detach_certainty:
                self._incline((along + coefficient) * -sharpness * w * rise_of_h)

    def _negative_below(self, threshold: float) -> None:
        unlikely = self.p.masked_fill(self.p >= threshold, 0.0)
        self.sums["negative"] = -torch.log1p(-unlikely).sum()
        coefficient = self._coefficient("negative")
        if coefficient is not None:
            self._stand_alone(coefficient * unlikely / (1 - unlikely))

    def _negative_jointly(self, threshold: float) -> None:
        likely = self.p.masked_fill(self.p < threshold, 0.0)
        rest = likely.sum(dim=0)  # 1 - the sum of the unlikely
        known = rest > 0
        rest = rest.where(known, 1)
        self.sums["negative"] = -rest.log().sum()
        coefficient = self._coefficient("negative")
        if coefficient is not None:
            self._stand_alone(-coefficient * likely / rest)

    def _negative_rank(self) -> None:
        ranks = self.inputs.ranks
        assert ranks is not None
        k = self._map(ranks) if ranks.ndim else ranks.expand(self.p.shape[1])
        assert k is not None
        descending = self.d.topk(int(k.max()), dim=0).indices
        complement = descending.gather(0, k.long()[None] - 1)[0]
        p = self.p.gather(0, complement[None])[0]
        self.sums["negative"] = -torch.log1p(-p).sum()
        coefficient = self._coefficient("negative")
        if coefficient is not None:
            self._learn(complement, -coefficient * p / (1 - p))

    def _soft_labels(self, of: Upsampled, under: Upsampled | None) -> Tensor:
        """q of the tile's pixels, those that are pasted from the image that they are of."""
        q, paste = self._distributions(of, self.where), self.inputs.paste
        if paste is None or under is None:
            return q
        image = int(paste.under[self.where.image])
        other = self._distributions(under, self.where._replace(image=image))
        own = self.where.of(paste.over).flatten().to(q.dtype)
        return q.mul_(own).add_(other.mul_(1 - own))

    def _distributions(self, of: Upsampled, where: Where) -> Tensor:
        q = of.tile(where)
        if self.terms.soft == "logits":
            q.sub_(q.amax(dim=0)).exp_()
            q.mul_(1 / q.sum(dim=0))
        return q

    def _soft(self, q: Tensor) -> None:
        mass = q.sum(dim=0)
        product = torch.mul(q, self.d, out=self._scratch("scratch"))
        ce = self.log_sum * mass - product.sum(dim=0)
        of_class = self.inputs.soft_class_weights
        weight = torch.ones_like(mass) if of_class is None else of_class.to(q.dtype) @ q
        self.sums["soft"] = (weight * ce).sum()
        coefficient = self._coefficient("soft")
        if coefficient is not None:
            weight = -coefficient * weight
            self.alone = q.mul_(weight) if self.alone is None else self.alone + q.mul_(weight)
            self._pull(-weight * mass)

    def _gradient(self) -> Tensor:
        """dL/dz of the tile."""
        grad = self._scratch("scratch")
        assert self.per_pixel is not None
        if self.slope is not None:
            torch.addcmul(self.per_pixel.expand_as(grad), self.d, -self.slope, out=grad)
        else:
            grad.copy_(self.per_pixel.expand_as(grad))
        if self.per_class is not None:
            grad += self.per_class
        grad *= self.p
        for classes, weight in self.once:
            grad.scatter_add_(0, classes[None], -weight[None])
        if self.alone is not None:
            grad += self.alone
        return grad
