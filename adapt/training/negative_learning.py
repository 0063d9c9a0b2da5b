"""LD's negative learning as a term that any method can add to its own (arXiv:2110.06484)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ...runtime.errors import NetworkError
from ..data.context import Context
from ..data.dataset import Batch
from ..losses.ld import complementary_ranks, negative_term
from ..methods.base import Stage
from ..networks import Output, SegmentationNetwork

TERM = "negative_learning"


class NegativeLearning:
    """L_neg (eq. 6 of LD) on the logits that a student gives to a stage of any method.

    for each batch:
        terms  <- those of the stage; z <- the logits that the student gave it with a gradient
        K, c   <- as in `LdStage`, on those logits
        terms  <- terms + weight mean -log(1 - softmax(z)_c)

    The student makes no pass of its own for it. Ranks are drawn after all that the stage draws, so
    that its own terms stay what they are without it.

    Args:
        model: the student.
        context: with ``negative_learning`` in its settings, of a weight above 0.
    """

    def __init__(self, model: SegmentationNetwork, context: Context) -> None:
        self.model, self.context = model, context
        self.settings = context.config.negative_learning

    @classmethod
    def asked_for(cls, model: SegmentationNetwork, context: Context) -> NegativeLearning | None:
        """One where the settings give it a weight."""
        return cls(model, context) if context.config.negative_learning.weight else None

    def losses(self, stage: Stage, batch: Batch) -> dict[str, Tensor]:
        """The terms of ``stage``, begun with the student, and L_neg beside them.

        Raises:
            NetworkError: the stage asked the student for nothing that has a gradient.
        """
        with self._watching() as passes:
            terms = stage.losses(batch)
        if not passes:
            raise NetworkError(
                f"negative_learning: {stage.name} asked the student for no logits with a gradient, "
                "so there is nothing to learn from; set negative_learning.weight to 0."
            )
        images = sum(map(len, passes))
        each = [self._term(logits, len(logits) / images) for logits in passes]
        return {**terms, TERM: torch.stack(each).sum()}

    @contextmanager
    def _watching(self) -> Iterator[list[Tensor]]:
        """Give the logits of the student's passes in the block that a gradient flows through."""
        passes: list[Tensor] = []

        def keep(_: object, __: object, output: Output) -> None:
            if output.logits.requires_grad and len(output.logits):
                passes.append(output.logits)

        hook = self.model.register_forward_hook(keep)
        try:
            yield passes
        finally:
            hook.remove()

    def _term(self, logits: Tensor, share: float) -> Tensor:
        settings, size = self.settings, self.context.crop_size
        shape = (len(logits), *size) if settings.rank_draw == "pixel" else ()
        ranks = complementary_ranks(
            logits.shape[1], shape, settings.rank_spread, logits.device, settings.complementary
        )
        return negative_term(
            logits,
            ranks,
            size,
            align_corners=self.model.align_corners,
            weight=settings.weight * share,
            kernel=self.context.losses,
        )
