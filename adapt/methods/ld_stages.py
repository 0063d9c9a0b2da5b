"""Rounds of LD (arXiv:2110.06484): positive and negative learning from labels of one's own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ..data.context import Context
from ..data.dataset import Batch
from ..losses.ld import LdWeights, complementary_ranks, ld_terms
from ..networks import SegmentationNetwork
from ..pseudo_labels.class_balance import ClassBalance
from ..pseudo_labels.labeller import Labeller
from ..pseudo_labels.selection import Selection
from .base import ParameterGroup, Stage, prefixed, under
from .ld_config import LdConfig


class SelfTraining(Stage):
    """Common part of rounds and boundary stage: a labeller, and a learning rate of its own."""

    def __init__(self, settings: LdConfig, number: int) -> None:
        self.settings, self.number = settings, number

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        super().begin(model, context)
        settings = self.settings
        if settings.learn_shortcut_norms:
            for name in model.norms_of_ld:
                model.get_submodule(name).requires_grad_(True)
        self.labeller = Labeller(
            model,
            context,
            settings.scales,
            settings.refresh_epochs,
            mirror=settings.mirror,
            batch_statistics=settings.batch_statistics,
        )
        self.selection = self.new_selection()

    def prepare(self) -> None:
        self.selection.prepare()

    @abstractmethod
    def new_selection(self) -> Selection:
        """Choose which of the labeller's labels to learn from."""

    def grown_selection(self) -> Selection:
        """A round's selection: its shares grow from round to round."""
        settings, grown = self.settings, self.number * self.settings.share_growth
        image_share = settings.image_share + grown if settings.image_share else 0.0
        return Selection(
            self.labeller, settings.class_share + grown, image_share, settings.threshold_of
        )

    def parameter_groups(self, model: SegmentationNetwork, factor: float) -> list[ParameterGroup]:
        slower = self.settings.round_lr_factor**self.number
        groups = super().parameter_groups(model, factor)
        return [replace(group, factor=group.factor * slower) for group in groups]

    def after_step(self) -> None:
        self.labeller.after_step()

    def state(self) -> dict[str, Tensor]:
        return prefixed("labeller", self.labeller.state())

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.labeller.load_state(under("labeller", tensors))


class LdStage(SelfTraining):
    """A round of positive and negative learning.

    at the start, and every refresh_epochs epochs:
        y     <- labels of a copy of f, where selected       (`Selection`)
    for each batch x~:
        K     <- floor(C/2) + uniform integer in [-rank_spread, rank_spread]     (Algorithm 1)
                 (``complementary`` names two other draws)
        p     <- softmax f(x~),  c <- the class of the K-th largest p_c, at every pixel
        L     <- mean CE(p, y) where selected + mean H(p) + mean -log(1 - p_c)     (eq. 7)
        f     <- f - lr round_lr_factor^round dL/df
    """

    name = "ld"

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        super().begin(model, context)
        settings = self.settings
        self.weights = LdWeights(
            settings.weight_selected, settings.weight_entropy, settings.weight_negative
        )
        self.balance: ClassBalance | None = None
        if settings.class_balance == "sqrt_inverse":
            self.balance = ClassBalance("sqrt_inverse", model.num_classes, 0.0, context.device)

    def new_selection(self) -> Selection:
        return self.grown_selection()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        settings, num_classes = self.settings, self.model.num_classes
        labels = self.selection.labels(batch)  # before the student's statistics move
        logits = self.model(self.context.normalise(batch.augmented)).logits
        shape = labels.shape if settings.rank_draw == "pixel" else ()
        ranks = complementary_ranks(
            num_classes, shape, settings.rank_spread, labels.device, settings.complementary
        )
        return ld_terms(
            logits,
            labels,
            ranks,
            self.context.crop_size,
            align_corners=self.model.align_corners,
            kernel=self.context.losses,
            weights=self.weights,
            class_weights=None if self.balance is None else self.balance(labels),
            selected_mean_over=settings.selected_mean_over,
        )

    def touched(self) -> list[Tensor]:
        return [] if self.balance is None else [self.balance.average]

    def state(self) -> dict[str, Tensor]:
        balance = {} if self.balance is None else {"balance": self.balance.average}
        return {**super().state(), **balance}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_state(tensors)
        if self.balance is not None:
            self.balance.average.copy_(tensors["balance"])
