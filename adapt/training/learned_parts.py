"""The part of a network that learns: ``training.learn``, over what the method itself lets learn.

========  =======================================================================================
all       what the method says, most often every weight
norm      scales and shifts of every layer that normalises
head      the classifier
lora      the weights of attention's projections, by a change of low rank, see `low_rank`
========  =======================================================================================

What a stage has besides the network (a projection for its loss) learns with each of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torch import nn

from ...runtime.errors import TrainingError
from ..methods.base import ParameterGroup
from ..networks import SegmentationNetwork
from ..networks.normalisation import learn_alone, norm_parameters

Part = Literal["all", "norm", "head", "lora"]
_ATTENTION = re.compile(r"(^|[._])(self_?)?(attn|attention)([._\d]|$)", re.IGNORECASE)


def narrowed(
    groups: Sequence[ParameterGroup], model: SegmentationNetwork, part: Part, where: str
) -> list[ParameterGroup]:
    """The groups without the network's parameters outside ``part``, which no longer learn.

    Args:
        model: changed in place: what is left out needs no gradient from now on.
        where: the stage's name, for messages.

    Raises:
        TrainingError: nothing of the part learns with this stage, or the network has none.
    """
    if part == "all":
        return list(groups)
    chosen = {id(parameter) for parameter in _members(model, part, where)}
    own = {id(parameter) for parameter in model.parameters()}
    learned: set[int] = set()
    left = []
    for group in groups:
        kept = [p for p in group.parameters if id(p) in chosen or id(p) not in own]
        learned |= {id(p) for p in kept}
        if kept:
            left.append(replace(group, parameters=kept))
    if not learned & own:
        raise TrainingError(
            f"{where}: training.learn={part} leaves nothing to learn, for this stage lets none of "
            "those weights learn; choose another part, or all, or leave the stage out, as Align by "
            "nightshift.align=false."
        )
    learn_alone(model, [p for group in left for p in group.parameters])
    return left


def check_part(model: SegmentationNetwork, part: Part, where: str) -> None:
    """Refuse a part that a network does not have, before any work is done for it.

    Args:
        where: the method's name, for messages.

    Raises:
        TrainingError: the network has none.
    """
    if part != "all":
        _members(model, part, where)


def attention_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Matrices of attention's projections by name: those below a module that is called attention.

    Names are what torch, Hugging Face, timm and mmsegmentation have in common: ``attn`` or
    ``attention`` as a part of the name, or of its words, and an end on ``weight``.
    """
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2
        and name.endswith("weight")
        and _ATTENTION.search(name.rpartition(".")[0])
    }


def _members(model: SegmentationNetwork, part: Part, where: str) -> list[nn.Parameter]:
    if part == "norm":
        found, what = norm_parameters(model), "layer that normalises with a scale or shift"
    elif part == "head":
        found, what = list(model.classifier_parameters()), "classifier"
    else:
        found, what = list(attention_weights(model).values()), "attention whose weights are known"
    if not found:
        raise TrainingError(
            f"{where}: training.learn={part}, and this network has no {what}; choose another part, "
            "or all."
        )
    return found
