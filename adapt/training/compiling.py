"""A network laid out and compiled as the settings ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ...runtime.errors import TrainingError
from ..run.config import TrainingConfig


@contextmanager
def compiler_errors(compiled: bool) -> Iterator[None]:
    """Turn what torch.compile cannot do into a sentence."""
    if not compiled:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    try:
        yield
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        first = next(iter(str(cause).splitlines()), type(cause).__name__)
        raise TrainingError(
            f"torch.compile cannot compile this network here ({first}); set training.compile=false."
        ) from error


def to_memory_format(model: nn.Module, training: TrainingConfig) -> None:
    """Channels-last weights where the settings ask for it."""
    if training.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
