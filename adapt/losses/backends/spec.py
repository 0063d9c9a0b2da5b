"""Specification of a loss over pixels: the sums that every backend computes, and their inputs.

Symbols, per pixel v: z = the student's logits, p = softmax z, h = its entropy over log K, t = the
teacher's logits, s = similarities to prototypes, p' = softmax s, q = a soft label. Natural
logarithms. A loss is a few numbers made of the sums below: what a backend differentiates are the
sums, what is left is ordinary autograd on a handful of scalars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Kernel = Literal["reference", "tiled", "triton"]
Importance = Literal["margin_ratio", "none", "first", "one_minus_second"]


@dataclass(frozen=True)
class Window:
    """Position of an image's pixels in the frame that a map was made for."""

    height: float  # of the frame, in the image's pixels; no integer where the image is zoomed
    width: float
    top: float  # of the image in it
    left: float
    flip: bool  # mirrored left to right


@dataclass(frozen=True)
class Map:
    """Values at network resolution, (B, K, h, w), and what part of them the pixels see."""

    values: Tensor
    windows: Sequence[Window] | None = None  # one an image; None: the map covers the pixels
    align_corners: bool | None = None  # None: as the logits

    @staticmethod
    def of(values: Tensor | Map) -> Map:
        """``values``, or the map that covers the pixels."""
        return values if isinstance(values, Map) else Map(values)

    def aligned(self, logits: bool) -> bool:
        """The map's own ``align_corners``, or that of the logits beside it."""
        return logits if self.align_corners is None else self.align_corners


@dataclass(frozen=True)
class Paste:
    """Images some of whose pixels are another image's, as ClassMix and CutMix make them."""

    over: Tensor  # bool (B, H, W): the pixels that are the image's own
    under: Tensor  # int64 (B,): the image that the others are of


@dataclass(frozen=True)
class Terms:
    """Selection of the sums over pixels that a loss needs.

    ``cross_entropy``    sum_v w_v a[y_v] CE(p, y),  w the importance      -> "cross_entropy"
    ``entropy``          sum_v -sum_c p_c log(p_c + epsilon)               -> "entropy"
    ``curriculum``       sum_v (1 - h)^gamma h                             -> "curriculum"
    ``sharpness``        sum_v w_v  and  sum_v w_v p_v, w = exp(-lambda h) -> "certainty", mass
    ``negative_below``   sum_v sum_c 1[p_c < tau] -log(1 - p_c)            -> "negative"
        ``negative_jointly``  sum_v -log(1 - sum_c 1[p_c < tau] p_c), 0 where no p_c reaches tau
    ``negative_rank``    sum_v -log(1 - p_c), c the class of rank K_v      -> "negative"
    ``agreement``        sum_v 1[y_t = y'] a'[y'] CE(p, y')                -> "agreement"
    ``prototype``        sum_v CE(p, y') + CE(p', y_t)                     -> "prototype"
    ``soft``             sum_v w_v CE(q, p), w_v = sum_c a_c q_c or 1      -> "soft"
    """

    cross_entropy: bool = False
    importance: Importance = "none"
    importance_of_logits: bool = False
    entropy: bool = False
    epsilon: float = 0.0
    curriculum: float | None = None  # gamma
    detach_focus: bool = False
    sharpness: float | None = None  # lambda
    detach_certainty: bool = False
    negative_below: float | None = None
    negative_jointly: bool = False
    negative_rank: bool = False
    agreement: bool = False
    agree_with: Literal["student", "pseudo_label"] = "student"
    prototype: bool = False
    soft: Literal["logits", "probabilities"] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the selected sums, in the order that backends give them."""
        wanted = {
            "cross_entropy": self.cross_entropy,
            "entropy": self.entropy,
            "curriculum": self.curriculum is not None,
            "certainty": self.sharpness is not None,
            "negative": self.negative_below is not None or self.negative_rank,
            "agreement": self.agreement,
            "prototype": self.prototype,
            "soft": self.soft is not None,
        }
        return tuple(name for name, asked in wanted.items() if asked)


@dataclass(frozen=True)
class Inputs:
    """Everything constant that the sums are made of; ``None`` where the terms do not ask for it."""

    size: tuple[int, int]  # (H, W)
    align_corners: bool
    teacher: Map | None = None  # t; y^ = argmax t where no labels are given
    labels: Tensor | None = None  # y, integers (B, H, W); 255 is none
    class_weights: Tensor | None = None  # a, (K,)
    pixel_weights: Tensor | None = None  # (B, H, W), times the importance
    prototype_class_weights: Tensor | None = None  # a', (K,)
    present: Tensor | None = None  # bool (B, K), classes that have a prototype
    nearest: Tensor | None = None  # y', integers (B, H, W); None: argmax s
    ranks: Tensor | None = None  # integers (B, H, W) or ()
    soft: Map | None = None  # q, as logits or probabilities
    paste: Paste | None = None  # of q
    soft_class_weights: Tensor | None = None  # a, (K,)


@dataclass(frozen=True)
class Share:
    """A loss's term that is linear in one of the sums: ``weight`` times the sum, over ``over``."""

    of: str  # the sum's name
    weight: float
    over: float | Tensor = 1  # how many pixels, or how much weight, the sum is the mean of

    @property
    def factor(self) -> float | Tensor:
        """dterm/dsum, in double precision."""
        over = self.over.double() if isinstance(self.over, Tensor) else self.over
        return self.weight / over
