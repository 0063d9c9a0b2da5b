"""SGD that updates some weights several times a step, as published training code does by mistake.

AdaptSegNet's DeepLabV2 (Tsai et al., CVPR 2018), and IAPC's and LD's after it, hand their optimiser
the weights of every module and of every module inside it. So the list holds a weight once for each
module that it lies in, and torch's SGD, which goes through the list, updates it as often: decay,
momentum and step, with the one gradient. A convolution of a residual block moves three times, one
on a shortcut four times, the first convolution and the classifier once. torch warns of such a list
and means to refuse it; here each weight is listed once, and the step is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..networks import SegmentationNetwork

UPDATES = "updates"  # key of an optimiser's parameter group: the times that a step updates it


def updates_of(
    parameters: Iterable[nn.Parameter], model: SegmentationNetwork | None
) -> dict[int, list[nn.Parameter]]:
    """The parameters by how often a step updates them, in ascending order.

    Args:
        model: whose `published_updates` counts; ``None``: all are updated once.
    """
    named = {} if model is None else model.published_updates()
    own = {} if model is None else dict(model.named_parameters())
    times = {id(own[name]): count for name, count in named.items()}
    found: dict[int, list[nn.Parameter]] = {}
    for parameter in parameters:
        found.setdefault(times.get(id(parameter), 1), []).append(parameter)
    return dict(sorted(found.items()))


class RepeatingSgd(torch.optim.SGD):
    """SGD whose step updates each parameter group as often as its ``updates`` say."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter from its gradient, which stays the same in between."""
        loss = None if closure is None else closure()
        groups: list[dict[str, Any]] = self.param_groups
        try:
            for done in range(max(group[UPDATES] for group in groups)):
                self.param_groups = [group for group in groups if group[UPDATES] > done]
                super().step()
        finally:
            self.param_groups = groups
        return loss
