"""A trial of a user's network as training uses it: finite logits, and gradients, step after step.

`trial` finds out what a network answers before it has its weights. This one takes the network with
its weights, lets those learn that its factory lets learn, and goes forward and backward twice: what
keeps the graph of the last images fails the second time alone.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ....runtime.errors import NetworkError
from ..base import SegmentationNetwork
from .adapter import ForeignNetwork
from .forward_pass import MODES, left_as_it_was, sentences
from .trial import TRIAL_SIZE

_NO_CAST: AbstractContextManager[None] = nullcontext()
PASSES = 2
BATCH = 2  # frames while training, as batch norm wants it


def try_learning(
    network: SegmentationNetwork, where: str, size: tuple[int, int] = TRIAL_SIZE
) -> bool:
    """Run a network on noise as training does, and tell whether any of its weights learns.

    Args:
        network: with its weights; left as it was, like torch's random numbers.
        where: begins every message.
        size: (height, width) that it will see; it is tried on smaller images if it takes these.

    Returns:
        False where no weight with ``requires_grad`` reaches the logits.

    Raises:
        NetworkError: its forward raises, or its logits are not finite.
        BackwardError: its backward raises.
    """
    size = _least_size(network, where, size)
    with left_as_it_was(network, all_learn=False):
        network.train(False)
        with torch.no_grad():
            _check_finite(_logits(network, where, (1, 3, *size)), where, training=False)
        network.train(True)
        for _ in range(PASSES):
            logits = _logits(network, where, (BATCH, 3, *size))
            _check_finite(logits, where, training=True)
            if not logits.requires_grad:
                return False
            _go_back(logits, where, (BATCH, 3, *size))
    return True


def check_backward(
    network: SegmentationNetwork,
    where: str,
    shape: tuple[int, ...],
    autocast: AbstractContextManager[object] = _NO_CAST,
) -> None:
    """Find out whether a network's own backward fails, whatever loss it comes from.

    To be called after a backward pass failed, of which nothing says where it did.

    Args:
        network: in the modes that it failed in; left as it was.
        shape: of the images, (B, 3, H, W).
        autocast: the context of forward passes.

    Raises:
        BackwardError: it fails for noise of that shape.
    """
    with left_as_it_was(network, all_learn=False):
        for _ in range(PASSES):
            try:
                with autocast:
                    logits = _logits(network, where, shape)
            except NetworkError:
                return  # it is noise, and says nothing of a backward pass
            if not logits.requires_grad:
                return
            _go_back(logits, where, shape)


def whose(network: SegmentationNetwork) -> str | None:
    """The beginning of a message on a user's network; ``None`` for one of the package's own."""
    if isinstance(network, ForeignNetwork):
        return network.where
    return type(network).__name__ if network.called else None


def _least_size(network: SegmentationNetwork, where: str, size: tuple[int, int]) -> tuple[int, int]:
    """At most `TRIAL_SIZE`, which spares memory; all of ``size`` where a network takes no less."""
    least = min(size[0], TRIAL_SIZE[0]), min(size[1], TRIAL_SIZE[1])
    if least == size:
        return size
    try:
        with left_as_it_was(network, all_learn=False), torch.no_grad():
            network.train(True)
            _logits(network, where, (BATCH, 3, *least))
    except NetworkError:
        return size
    return least


def _logits(network: SegmentationNetwork, where: str, shape: tuple[int, ...]) -> Tensor:
    first = next(network.parameters(), torch.zeros(()))
    images = torch.randn(shape, dtype=first.dtype, device=first.device)
    with sentences(where, f"for images {shape} {MODES[network.training]}"):
        return network.forward(images).logits  # not through a compiled call


def _check_finite(logits: Tensor, where: str, *, training: bool) -> None:
    if not bool(torch.isfinite(logits).all()):
        raise NetworkError(
            f"{where} returns logits that are not finite {MODES[training]}, for noise of mean 0 "
            "and deviation 1; look for divisions, logarithms and roots in its forward, and at its "
            "weights."
        )


def _go_back(logits: Tensor, where: str, shape: tuple[int, ...]) -> None:
    with sentences(where, f"for images {shape} {MODES[True]}", "backward"):
        logits.backward(torch.ones_like(logits))  # type: ignore[no-untyped-call]
