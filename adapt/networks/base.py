"""A segmentation network as the rest of the package sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn


class Output(NamedTuple):
    """Result of a network for images of (B, 3, H, W).

    Attributes:
        logits: unnormalised scores, (B, K, h, w), at the network's own stride.
        features: what the last layer classifies, (B, D, h', w'); ``None`` where unknown.
    """

    logits: Tensor
    features: Tensor | None


class Preprocessing(NamedTuple):
    """The input that published weights were trained on: x = (image - mean) / std, in 0-255 units.

    ``mean`` and ``std`` are in the order that ``colour`` ("rgb" or "bgr") names.
    """

    colour: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET_RGB = Preprocessing("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""Input of weights that were trained with ImageNet's statistics, as most are."""


class SegmentationNetwork(nn.Module):
    """Base of every network: ``forward(images (B, 3, H, W), normalised float) -> Output``.

    Attributes:
        num_classes: K, the channels of the logits.
        align_corners: the convention by which logits are upsampled to image size.
        stride: image pixels per logit along each axis; ``None`` if unknown.
        description: one sentence for listings.
        paper: where the architecture was published.
        published_preprocessing: the input that the published weights expect, if any are known.
        reference_feature_layer: the submodule whose output IAPC's reference code takes as features;
            ``None``: ``Output.features`` serves there too.
        norms_of_ld: normalising submodules that are frozen here and learn in LD's code.
        idle_in_checkpoints: parts that published checkpoints carry and their code never asks for;
            they are left out when such a file is read.
        training_heads: parts that published checkpoints carry and only their training asks for;
            they are not built, and left out likewise.
        rebuild: builds the network anew, with weights of its own; copies are made with it. ``None``
            for a module that was made by hand.
        called: how a user's factory was called for it, for people.
    """

    num_classes: int
    align_corners: bool
    stride: int | None = None
    description: str = ""
    paper: str = ""
    published_preprocessing: Preprocessing | None = None
    reference_feature_layer: str | None = None
    norms_of_ld: tuple[str, ...] = ()
    idle_in_checkpoints: tuple[str, ...] = ()
    training_heads: tuple[str, ...] = ()
    rebuild: Callable[[], SegmentationNetwork] | None = None
    called: str = ""

    def forward(self, images: Tensor) -> Output:
        """Segment images, (B, 3, H, W), normalised float."""
        raise NotImplementedError

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the last layers, which learn at ten times the learning rate."""
        raise NotImplementedError

    def backbone_names(self) -> dict[str, str]:
        """Names that parameters and buffers have in weights trained on images of single objects.

        Returns:
            The name there by the name here, of all that such weights (ImageNet's) have: everything
            but the classifier, unless a network says otherwise.
        """
        head = {id(parameter) for parameter in self.classifier_parameters()}
        classifier = {name for name, p in self.named_parameters() if id(p) in head}
        return {name: name for name in self.state_dict() if name not in classifier}

    def published_updates(self) -> dict[str, int]:
        """Times that a step of the published training code updates a parameter, by its name.

        Those that are left out: once. See `training.repeated_updates.RepeatingSgd`.
        """
        return {}

    def in_own_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors under this network's names, where published files have others.

        Prefixes stay; names that nothing is known of come back as they are. By default all do.
        """
        return dict(tensors)
