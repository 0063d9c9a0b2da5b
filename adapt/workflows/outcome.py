"""A run's outcome: whether its weights can be published, and the figures that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...runtime.bundle import Measurement
from ...runtime.errors import TrainingError
from ...runtime.words import counted
from ..run.options import RunSummary


def check_finite(network: nn.Module) -> None:
    """Refuse a result that no frame can be labelled with.

    Raises:
        TrainingError: some of its weights are infinite or not a number.
    """
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"after the last step {name} holds values that are no finite numbers, so nothing "
                "is published; lower training.lr, or set training.amp=off."
            )


def measurements(summary: RunSummary, device: str) -> list[Measurement]:
    """Time and memory that a run took, on the device of that name."""
    how = f"the run itself, on {device}"
    watch = summary.watch
    return [
        Measurement(name="run_seconds", value=round(summary.seconds, 3), unit="s", how=how),
        Measurement(
            name="run_peak_memory", value=round(summary.peak_memory_mib, 1), unit="MiB", how=how
        ),
        *([] if watch is None else [_watch_measurement(watch)]),
    ]


def _watch_measurement(watch: Mapping[str, Any]) -> Measurement:
    looks, frames = counted(len(watch["looks"]), "look"), counted(watch["frames"], "frame")
    how = f"part of the run: {looks} at {frames} set aside"
    return Measurement(name="watch_seconds", value=watch["seconds"], unit="s", how=how)
