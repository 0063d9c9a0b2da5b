"""Changes of low rank: W = W_0 + s B A, of which A and B alone learn (LoRA).

Source: Hu et al., ICLR 2022 (arXiv:2106.09685), Sec. 4.1. W is (m, n), B (m, r) and A (r, n), and
s is the paper's alpha / r. B begins at zero, so that nothing changes before the first step.

The network keeps W itself, which is the same before, during and after a run: names, teachers,
checkpoints, bundles and exports know nothing of A and B, and nothing is left to be merged. They
are the optimiser's: by the chain rule

    dL/dA = s B^T dL/dW,      dL/dB = s dL/dW A^T

a hook on W's gradient adds to theirs and drops it, and after each step W is written anew. A stage
begins with new A and B at the weights that the one before it ended with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..methods.base import ParameterGroup
from ..run.checkpoint import load_optimizer_tensors, optimizer_tensors

FACTORS = "changes"  # key of an optimiser's parameter group: the changes that it learns


class LowRankChange:
    """A and B of one weight, in float32 at least.

    Args:
        weight: W_0, (m, n); changed in place by `write`.
        rank: r; at most min(m, n), beyond which a change can be no more than any.
        scale: s.
        generator: A is drawn with it, uniformly, as the authors' code does for a linear layer.
    """

    def __init__(
        self, weight: nn.Parameter, rank: int, scale: float, generator: torch.Generator
    ) -> None:
        rows, columns = weight.shape
        rank = min(rank, rows, columns)
        self.weight, self.scale, self.start = weight, scale, weight.detach().clone()
        bound = 1 / math.sqrt(columns)
        drawn = torch.rand(rank, columns, generator=generator) * 2 * bound - bound
        self.a = nn.Parameter(drawn.to(weight))
        self.b = nn.Parameter(weight.new_zeros(rows, rank))
        hook: Any = weight.register_post_accumulate_grad_hook  # torch leaves it without types
        self._hook = hook(self._pass_on)

    @torch.no_grad()
    def write(self) -> None:
        """Write W_0 + s B A into the weight."""
        self.weight.copy_(torch.addmm(self.start, self.b, self.a, alpha=self.scale))

    def end(self) -> None:
        """Leave the weight as it is, to learn by itself or by another change."""
        self._hook.remove()

    @torch.no_grad()
    def _pass_on(self, weight: Tensor) -> None:
        """Add to the gradients of A and B what the weight's says, and drop that."""
        if weight.grad is None:
            return
        for factor, gradient in (
            (self.a, self.b.T @ weight.grad),
            (self.b, weight.grad @ self.a.T),
        ):
            gradient = self.scale * gradient
            factor.grad = gradient if factor.grad is None else factor.grad + gradient
        weight.grad = None


def low_rank_groups(
    groups: Iterable[ParameterGroup],
    weights: Iterable[nn.Parameter],
    rank: int,
    scale: float,
    seed: int,
) -> list[tuple[ParameterGroup, list[LowRankChange]]]:
    """The groups with A and B in the place of each weight, and the changes of each group."""
    generator = torch.Generator().manual_seed(seed)
    wanted = {id(weight) for weight in weights}
    made = []
    for group in groups:
        changes = [
            LowRankChange(p, rank, scale, generator) for p in group.parameters if id(p) in wanted
        ]
        rest = [p for p in group.parameters if id(p) not in wanted]
        factors = [factor for change in changes for factor in (change.a, change.b)]
        made.append((ParameterGroup(group.name, [*factors, *rest], group.factor), changes))
    return made


def write_after_steps(optimizer: torch.optim.Optimizer) -> None:
    """Let every step of the optimiser end with the weights that its changes make."""

    def write(*_: Any) -> None:
        for change in _changes(optimizer):
            change.write()

    optimizer.register_step_post_hook(write)


def end_changes(optimizer: torch.optim.Optimizer) -> None:
    """End the changes that the optimiser learns, with the stage that it is of."""
    for change in _changes(optimizer):
        change.end()


def learned_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, see `optimizer_tensors`, with A and B of every change."""
    factors = {
        f"change.{i}.{name}": factor.detach()
        for i, change in enumerate(_changes(optimizer))
        for name, factor in (("a", change.a), ("b", change.b))
    }
    return {**optimizer_tensors(optimizer), **factors}


@torch.no_grad()
def load_learned_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take back what `learned_tensors` gave."""
    for i, change in enumerate(_changes(optimizer)):
        change.a.copy_(tensors[f"change.{i}.a"])
        change.b.copy_(tensors[f"change.{i}.b"])
    rest = {name: t for name, t in tensors.items() if not name.startswith("change.")}
    load_optimizer_tensors(optimizer, rest)


def _changes(optimizer: torch.optim.Optimizer) -> list[LowRankChange]:
    return [change for group in optimizer.param_groups for change in group.get(FACTORS, ())]
