"""Forward and backward passes of a stage's steps, and what takes back all that they touch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ...runtime.errors import NetworkError, RoadshiftError
from ..data.dataset import Batch
from ..methods.base import Stage
from ..networks import SegmentationNetwork
from ..networks.ema import restore, snapshot
from ..networks.foreign.forward_pass import says_no_memory
from ..networks.foreign.learning_trial import check_backward, whose
from ..run.precision import Precision
from .negative_learning import NegativeLearning


class Passes:
    """The passes of one stage's steps.

    Args:
        model: the student.
        stage: begun with it.
        optimizer: over what learns.
        seed: the run's.
        negative: what adds its term to the stage's; ``None``: nothing does.
    """

    def __init__(
        self,
        model: SegmentationNetwork,
        stage: Stage,
        optimizer: torch.optim.Optimizer,
        seed: int,
        negative: NegativeLearning | None = None,
    ) -> None:
        self.model, self.stage, self.optimizer, self._seed = model, stage, optimizer, seed
        self._negative = negative
        self.parameters: list[nn.Parameter] = [
            p for g in optimizer.param_groups for p in g["params"]
        ]

    def backward(
        self, batch: Batch, step: int, micro_batch: int, precision: Precision
    ) -> tuple[dict[str, float], bool]:
        """Accumulate the gradient of the mean over micro-batches of the sum of the terms.

        Args:
            step: steps done before; with the run's seed it decides every random draw.
            micro_batch: frames a forward pass at most, see `Batch.passes`.

        Returns:
            The terms and their total by name, and whether all are finite.

        Raises:
            NetworkError: no loss depends on a weight that learns, or a user's network fails.
        """
        size = len(batch.frames)
        sums: dict[str, Tensor] = {}
        for start, piece in _micro_batches(batch, micro_batch):
            torch.manual_seed(seed_of(self._seed, step, start))
            with precision.autocast():
                terms = self._losses(piece)
            share = len(piece.frames) / size
            total = torch.stack([term.float() for term in terms.values()]).sum() * share
            self._check_gradient(total)
            self._go_back(total, piece, precision)
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros(())) + term.detach().float().cpu() * share
        values = {name: float(value) for name, value in sums.items()}
        values["total"] = float(torch.stack(list(sums.values())).sum())
        return values, all(map(is_finite, values.values()))

    def _losses(self, piece: Batch) -> dict[str, Tensor]:
        """The terms of a micro-batch, by name."""
        if self._negative is None:
            return self.stage.losses(piece)
        return self._negative.losses(self.stage, piece)

    def look_again(self, batch: Batch, micro_batch: int, precision: Precision) -> None:
        """Show the stage the micro-batches of a step once more, see `Stage.look_again`."""
        for _, piece in _micro_batches(batch, micro_batch):
            with precision.autocast():
                self.stage.look_again(piece)

    def _go_back(self, total: Tensor, piece: Batch, precision: Precision) -> None:
        """Go backward; what a user's network does not bear is told from what our losses do not.

        Raises:
            NetworkError: a user's network fails by itself, too, for images of that shape.
        """
        try:
            precision.backward(total)
        except (RoadshiftError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            # After a fault on the GPU nothing works there, so that a trial would say nothing.
            lost = says_no_memory(error) or "CUDA error" in str(error)
            if not lost and (where := whose(self.model)) is not None:
                frames, height, width, _ = piece.augmented.shape
                shape = (frames, 3, height, width)
                check_backward(self.model, where, shape, precision.autocast())
            raise

    def _check_gradient(self, total: Tensor) -> None:
        if not total.requires_grad:
            raise NetworkError(
                f"{self.stage.name}: no loss has a gradient, so nothing can learn; leave "
                "torch.no_grad(), torch.inference_mode() and .detach() out of the network's "
                "forward and of the method's losses."
            )

    @contextmanager
    def undo_forward(self) -> Iterator[Callable[[], None]]:
        """Give a function that takes back what forward passes changed."""
        touched = [*self.model.buffers(), *self.stage.touched()]
        copies = snapshot(touched)
        yield lambda: restore(touched, copies)

    def zero_gradients(self) -> None:
        """Remove all gradients, also of parameters that only another stage learns."""
        self.optimizer.zero_grad(set_to_none=True)
        self.model.zero_grad(set_to_none=True)

    @contextmanager
    def dry_run(self, batch: Batch, micro_batch: int, precision: Precision) -> Iterator[bool]:
        """A step on ``batch`` but for the optimiser's; no trace is left when the block ends.

        Gives whether losses and gradient are finite; the gradient is there inside the block.

        Args:
            precision: not the run's own: fp16's scale moves, as after a step thrown away.
        """
        device = self.parameters[0].device
        generators = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(generators), self.undo_forward() as undo:
            try:
                _, finite = self.backward(batch, 0, micro_batch, precision)
                norm = precision.unscale_and_clip(self.optimizer, self.parameters, None)
                precision.skip()
                yield finite and bool(torch.isfinite(norm))
            finally:
                undo()
                self.zero_gradients()


def _micro_batches(batch: Batch, micro_batch: int) -> Iterator[tuple[int, Batch]]:
    """Parts of ``batch`` for a forward pass each, with the first row's place; `Batch.passes`."""
    for start, stop in batch.passes(micro_batch):
        yield start, batch.part(start, stop)


def seed_of(*numbers: int) -> int:
    """A seed for torch's generator (dropout) that depends on the numbers alone."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def is_finite(value: float) -> bool:
    """Tell whether ``value`` is neither NaN nor infinite."""
    return value == value and abs(value) != float("inf")
