"""Tent: entropy minimisation by scale and shift of the norms alone (arXiv:2006.10726)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...runtime.errors import NetworkError
from ..data.context import Context
from ..networks import SegmentationNetwork
from ..networks.normalisation import carries_statistics, learn_alone, norm_parameters
from ..run.config import Settings
from .base import SMALL_DATA, Method, ParameterGroup, Stage
from .entmin import EntminStage


class TentConfig(Settings):
    """Settings of a method that has none of its own."""


class TentStage(EntminStage):
    """Fully test-time adaptation by entropy minimisation.

    theta <- scale and shift of every batch-norm layer; where batch norm does not carry the network
             (`carries_statistics`), of every layer that normalises
    for each batch x:
        p     <- softmax f(x), every layer normalising with the statistics of x itself
        theta <- theta - lr d/dtheta mean over pixels of H(p)

    Deviation: the paper predicts each batch while it adapts to it, with that batch's statistics.
    Here the adapted model is a bundle that sees one frame at a time, so its running statistics are
    those of all target frames under the final theta (`final_bn`).
    """

    name = "tent"

    def check(self, model: SegmentationNetwork) -> None:
        """See `Stage.check`: there must be a theta."""
        _theta(model)

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        """Begin the stage and freeze all but theta in ``model``: the rest needs no gradient.

        Raises:
            NetworkError: there is no theta.
        """
        super().begin(model, context)
        self.theta = _theta(model)
        learn_alone(model, self.theta)
        for layer in _layers(model):  # a network's own train() may keep them in evaluation mode
            layer.train()

    def parameter_groups(
        self,
        model: SegmentationNetwork,  # noqa: ARG002 - theta was found in `begin`
        factor: float,  # noqa: ARG002 - there is no classifier in it
    ) -> list[ParameterGroup]:
        return [ParameterGroup("norms", self.theta, 1.0)]


def _layers(model: nn.Module) -> list[_BatchNorm]:
    """Batch norm with statistics of its own or of each batch."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _theta(model: nn.Module) -> list[nn.Parameter]:
    """Scales and shifts that learn."""
    layers = _layers(model)
    affine = [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]
    if not carries_statistics(model):
        affine = norm_parameters(model)
    learn = [parameter for parameter in affine if parameter.requires_grad]
    if not learn:
        why = "keeps them frozen" if affine else "has none"
        other = "bn_stats" if carries_statistics(model) else "entmin"
        raise NetworkError(
            f"tent learns the scales and shifts of the norms, and this network {why}; choose "
            f"another method, such as {other}."
        )
    return learn


class Tent(Method):
    """Tent on the target frames as they are, with our small-data schedule."""

    name = "tent"
    summary = "entropy minimisation by the scales and shifts of the norms alone"
    source = "Wang et al., ICLR 2021 (arXiv:2006.10726)"
    Config = TentConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "roadshift": {**SMALL_DATA, "augment": {"policy": "none"}}
    }

    @staticmethod
    def stages(settings: TentConfig) -> Sequence[Stage]:  # noqa: ARG004 - nothing to choose
        return [TentStage()]
