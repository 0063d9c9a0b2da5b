"""The weights that make a map, and the layer that makes it last: read off autograd's graph.

The graph says what happened, whatever the modules are called: a head may be a convolution, a
transposed one, a linear layer on tokens, an einsum, or several of these that are added up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Node = Any  # torch.autograd.graph.Node: its subclasses, one for each operation, have no stubs
_ELEMENTWISE = re.compile(r"(Add|Sub|Rsub|Mul|Div)Backward")  # not AddmmBackward, a linear layer's


@dataclass(frozen=True)
class Mixing:
    """An operation that mixes channels by weights.

    Attributes:
        weights: those weights, and a bias that comes with them.
        sources: graph nodes that its other operand comes from, with no such operation between.
    """

    weights: tuple[Tensor, ...]
    sources: frozenset[Node]


class Graph:
    """The graph behind one map.

    Args:
        made: the map.
        images: the leaf that it was made from, with gradient.
    """

    def __init__(self, made: Tensor, images: Tensor) -> None:
        self._root = made.grad_fn
        order = list(_from_the_leaves(self._root))
        self._depends: dict[Node, bool] = {}
        self._weights: dict[Node, tuple[Tensor, ...]] = {}  # of branches without the images
        reached: dict[int, Tensor] = {}
        for node in order:
            leaf = getattr(node, "variable", None)
            parents = _parents(node)
            depends = leaf is images or any(self._depends[parent] for parent in parents)
            self._depends[node] = depends
            if leaf is not None and leaf is not images:
                reached[id(leaf)] = leaf
            if not depends:
                below = [w for parent in parents for w in self._weights[parent]]
                self._weights[node] = tuple(below if leaf is None else [leaf])
        self.reached = tuple(reached.values())
        self.opaque = any("Checkpoint" in node.name() for node in order)

    @property
    def empty(self) -> bool:
        """True where no gradient leads from the map to anything, as under ``torch.no_grad()``."""
        return self._root is None

    def last_mixing(self) -> tuple[list[Mixing], list[Tensor]]:
        """The operations that make the map last, and the weights behind them.

        Several where the map is a sum, say. Resizing, adding, norms and activations make no
        channels of others; their weights are among the second.
        """
        mixing: list[Mixing] = []
        behind: list[Tensor] = []
        for node in self._walk([] if self._root is None else [self._root]):
            weights = self._weights_of(node)
            if _mixes(node, weights):
                mixing.append(Mixing(weights, frozenset(self._walk(self._operands(node)))))
            else:
                behind.extend(weights)
        return mixing, behind

    def depends_on(self, tensor: Tensor) -> bool:
        """True where the map is made from ``tensor``, which is made from the images."""
        return tensor.grad_fn is not None and self._depends.get(tensor.grad_fn, False)

    def _walk(self, start: Iterable[Node]) -> Iterator[Node]:
        """Nodes from ``start`` towards the images, up to the next mixing operations, these too."""
        stack, seen = list(start), set(start)
        while stack:
            node = stack.pop()
            yield node
            if _mixes(node, self._weights_of(node)):
                continue
            for parent in self._operands(node):
                if parent not in seen:
                    seen.add(parent)
                    stack.append(parent)

    def _operands(self, node: Node) -> list[Node]:
        return [parent for parent in _parents(node) if self._depends[parent]]

    def _weights_of(self, node: Node) -> tuple[Tensor, ...]:
        """Weights that ``node`` applies to something else, each once."""
        found = {
            id(weight): weight
            for parent in _parents(node)
            if not self._depends[parent]
            for weight in self._weights[parent]
        }
        return tuple(found.values())


def _mixes(node: Node, weights: tuple[Tensor, ...]) -> bool:
    name = node.name()
    if _ELEMENTWISE.match(name):
        return False
    if "Convolution" in name:  # to one channel too, as one head for each class has it
        kernels = [weight for weight in weights if weight.ndim > 1]
        depthwise = getattr(node, "_saved_groups", 1) > 1
        return any(max(k.shape[:2]) > 1 and not (depthwise and k.shape[1] == 1) for k in kernels)
    return any(sum(side > 1 for side in weight.shape) > 1 for weight in weights)


def _parents(node: Node) -> list[Node]:
    return [parent for parent, _ in node.next_functions if parent is not None]


def _from_the_leaves(root: Node) -> Iterator[Node]:
    """Every node below ``root`` and itself, each after those that it comes from."""
    stack = [] if root is None else [(root, False)]
    entered: set[Node] = set()
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif node not in entered:
            entered.add(node)
            stack.append((node, True))
            stack.extend((parent, False) for parent in _parents(node))
