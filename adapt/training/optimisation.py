"""The optimiser of a stage and the course of its learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...runtime.errors import TrainingError
from ..methods.base import Stage
from ..networks import SegmentationNetwork
from ..run.config import TrainingConfig
from .learned_parts import attention_weights, narrowed
from .low_rank import FACTORS, low_rank_groups, write_after_steps
from .repeated_updates import UPDATES, RepeatingSgd, updates_of


def load_optimizers() -> None:
    """Make an optimiser of nothing: at the first one of a process torch loads its compiler.

    That takes seconds on a busy machine, which a time budget counts where they are spent.
    """
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0)


def learning_rate_factor(step: int, steps: int, training: TrainingConfig) -> float:
    """Share of the learning rate at ``step``: linear warm-up, then poly decay to the horizon.

        (1 - step / horizon)^power                 horizon = schedule_steps or steps
        w + (1 - w) step / warmup_steps            w = warmup_factor, while step < warmup_steps

    The second times the first, or in its place with ``warmup_replaces_decay``.
    """
    horizon = training.schedule_steps or max(steps, 1)
    decay = max(0.0, 1 - step / horizon) ** training.poly_power
    if step >= training.warmup_steps:
        return float(decay)
    least = training.warmup_factor
    warm = least + (1 - least) * step / training.warmup_steps
    return float(warm if training.warmup_replaces_decay else decay * warm)


def nothing_learns(what: str) -> TrainingError:
    """The error for a method or stage, named ``what``, of a network whose weights are frozen."""
    return TrainingError(
        f"{what}: no weight of this network learns (requires_grad is off, or what has it does not "
        "reach the logits); let its factory return it with weights that learn, or choose bn_stats."
    )


def build_optimizer(
    stage: Stage,
    model: SegmentationNetwork,
    training: TrainingConfig,
    seed: int = 0,
    note: Callable[[str], None] | None = None,
) -> torch.optim.Optimizer:
    """The optimiser over the stage's parameter groups; each keeps its ``factor``.

    Args:
        model: what ``training.learn`` leaves out of it needs no gradient from now on.
        training: with ``repeated_updates`` a group holds what is updated equally often.
        seed: of what is drawn where changes are of low rank.
        note: is told where ``repeated_updates`` finds nothing to repeat.

    Raises:
        TrainingError: no weight learns.
    """
    found = stage.parameter_groups(model, training.classifier_lr_factor)
    if not found:
        raise nothing_learns(stage.name)
    found = narrowed(found, model, training.learn, stage.name)
    low_rank = training.learn == "lora"
    changed = low_rank_groups(
        found,
        attention_weights(model).values() if low_rank else (),
        training.lora_rank,
        training.lora_scale,
        seed,
    )
    published = model if training.repeated_updates else None
    if published is not None and note is not None and not published.published_updates():
        note(
            "training.repeated_updates: of this network no published code is known that updates a "
            "weight several times a step (deeplab_v2_resnet101's does); each is updated once"
        )
    groups = [
        {
            "params": parameters,
            "factor": group.factor,
            "lr": training.lr * group.factor,
            FACTORS: changes,
            UPDATES: updates,
        }
        for group, changes in changed
        for updates, parameters in updates_of(group.parameters, published).items()
    ]
    optimizer = _optimizer(groups, training)
    if low_rank:
        write_after_steps(optimizer)
    return optimizer


def _optimizer(groups: list[dict[str, Any]], training: TrainingConfig) -> torch.optim.Optimizer:
    if training.optimizer == "adamw":
        return torch.optim.AdamW(
            groups,
            betas=(training.momentum, 0.999),
            weight_decay=training.weight_decay,
            fused=True,
        )
    kind = RepeatingSgd if training.repeated_updates else torch.optim.SGD
    return kind(
        groups,
        lr=training.lr,
        momentum=training.momentum,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
        foreach=True,  # the fused one fails where a parameter's first gradient comes late
    )
