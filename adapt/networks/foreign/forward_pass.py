"""One forward pass of a user's network, looked into: its maps, who made them, and from what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor, nn

from ....runtime.errors import NetworkError, RoadshiftError, arg
from .graph import Graph, Mixing, Node
from .output_maps import maps_in, shown

MODES = {False: "while evaluating", True: "while training"}
UNREGISTERED = "a tensor that is no parameter"


@dataclass(frozen=True)
class CandidateMap:
    """A map of K channels in an answer.

    Attributes:
        path, shape: where it is, and (B, K, h, w).
        head: names of the weights that make it last.
        makers: the operations that do, each with the layer that it is of.
        reach: how many weights it depends on; ``None``: gradient checkpoints hide them.
        sums_to_one: the channels of each pixel are probabilities.
        graph: the one behind it.
    """

    path: str
    shape: tuple[int, ...]
    head: tuple[str, ...]
    makers: tuple[tuple[str, Mixing], ...]
    reach: int | None
    sums_to_one: bool
    graph: Graph

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        maker = " + ".join(dict.fromkeys(layer for layer, _ in self.makers)) or "no layer"
        reach = "" if self.reach is None else f", {self.reach:,} weights reach it"
        return f"{shown(self.path)} ({size}, made by {maker}{reach})"


@dataclass
class ForwardResult:
    """The result of one forward pass in one mode."""

    training: bool
    answer: Any
    candidates: dict[str, CandidateMap]
    calls: dict[str, list[tuple[Any, Node]]]  # first input of every call of a layer, and its node
    linear: frozenset[str]  # layers that take channels last

    @property
    def mode(self) -> str:
        return MODES[self.training]

    def listed(self) -> str:
        return ", ".join(map(str, self.candidates.values()))


@contextmanager
def left_as_it_was(network: nn.Module, *, all_learn: bool = True) -> Iterator[None]:
    """Put back buffers, weights, gradients, modes, draws, hooks and attributes of modules.

    Args:
        all_learn: every weight has a gradient for the duration, whatever its factory says.
    """
    modules = [module for _, module in network.named_modules()]
    keepers = [*modules, getattr(network, "_foreign", network)]  # the user's own, see `foreign`
    attributes = [(module, dict(module.__dict__)) for module in keepers]
    # A module may hook its parts when it is first called, and note that in an attribute.
    hooks = [(d, dict(d)) for m in keepers for n, d in m.__dict__.items() if _holds_hooks(n, d)]
    buffers = [(m, dict(m._buffers)) for m in modules]
    tensors = [
        *network.parameters(),
        *(b for _, held in buffers for b in held.values() if b is not None),
    ]
    values = [tensor.detach().clone() for tensor in tensors]
    learns = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    gradients = [(parameter, parameter.grad) for parameter, _ in learns]
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    modes = [module.training for module in modules]
    mode = network.training
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            torch.manual_seed(0)
            for parameter, learned in learns:
                parameter.requires_grad_(parameter.is_floating_point() if all_learn else learned)
                parameter.grad = None
            yield
        network.train(mode)
    finally:
        for module, kept in attributes:
            module.__dict__.clear()
            module.__dict__.update(kept)
        for now, before in hooks:
            now.clear()
            now.update(before)
        for module, held in buffers:
            module._buffers.update(held)
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for parameter, learned in learns:
            parameter.requires_grad_(learned)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, own in zip(modules, modes, strict=True):
            module.training = own


def _holds_hooks(name: str, value: object) -> TypeGuard[dict[int, Any]]:
    """True of torch's own tables of a module's hooks."""
    return "_hooks" in name and isinstance(value, dict)


def see(
    network: nn.Module,
    run: Callable[[Tensor], Any],
    num_classes: int,
    where: str,
    size: tuple[int, int],
    *,
    training: bool,
) -> ForwardResult:
    """One pass: of a frame while evaluating, of two while training, as batch norm wants it."""
    first = next(network.parameters(), torch.zeros(()))
    shape = (2 if training else 1, 3, *size)
    images = torch.randn(shape, dtype=first.dtype, device=first.device).requires_grad_()
    calls: dict[str, list[tuple[Any, Node]]] = {}

    def note_call(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0] if inputs else None
            node = getattr(x, "grad_fn", None)
            calls.setdefault(name, []).append((x, node))

        return hook

    handles = [m.register_forward_pre_hook(note_call(n)) for n, m in network.named_modules() if n]
    try:
        with sentences(where, f"for images {shape} {MODES[training]}"):
            network.train(training)
            # What the graph would keep for a backward pass, which never comes, is let go.
            with torch.autograd.graph.saved_tensors_hooks(lambda _: None, _never):
                answer = run(images.clone())  # a copy: a user may change images in place
    finally:
        for handle in handles:
            handle.remove()
    candidates = {
        path: _candidate(network, path, made, images)
        for path, made in maps_in(answer).items()
        if made.shape[1] == num_classes
    }
    linear = frozenset(n for n, m in network.named_modules() if isinstance(m, nn.Linear))
    return ForwardResult(training, answer, candidates, calls, linear)


def _never(_: Any) -> Tensor:
    raise RuntimeError("the graph of an earlier forward pass is gone")


class BackwardError(NetworkError):
    """A user's network whose backward raises, so that it can be run and not learn.

    Attributes:
        cause: the type and first line that were raised, for use in another message.
    """

    def __init__(self, message: str = "", *, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


@contextmanager
def sentences(
    where: str, when: str, part: Literal["forward", "backward"] = "forward"
) -> Iterator[None]:
    """Turn what a user's code raises into a `NetworkError`; a lack of memory stays what it is.

    Raises:
        NetworkError: the user's code raised; a `BackwardError` where it was its backward.
    """
    try:
        yield
    except (RoadshiftError, torch.OutOfMemoryError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if says_no_memory(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        first = lines[0].partition(" Hint: ")[0] if lines else ""  # torch's own, of debugging it
        said = f"{type(error).__name__}: {first}".rstrip(": .")
        start = f"{where}: its {part} raised {said}, {when}"
        if part == "backward":
            told = f"{start}; {_advice_on_backward(error)}."
            raise BackwardError(told, cause=said) from error
        raise NetworkError(f"{start}; {_advice(error)}.") from error


def says_no_memory(error: BaseException) -> bool:
    """True of what torch raises where a CPU's memory is exhausted, which has no type of its own."""
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _advice_on_backward(error: BaseException) -> str:
    said = str(error)
    if "inplace" in said:
        return (
            "what it changed in place was still needed for a gradient, so write x = x + y where "
            "its forward has x += y, and ReLU(inplace=False)"
        )
    if "second time" in said or "earlier forward pass" in said:
        return "what it keeps from one forward to the next has to be kept with .detach()"
    if isinstance(error, NotImplementedError):
        return "give each of its torch.autograd.Function classes a backward"
    return "every operation between its weights and its logits must have a gradient"


def _advice(error: BaseException) -> str:
    said = str(error)
    if isinstance(error, TypeError) and "positional argument" in said:
        return "it is given the images alone, so let its other parameters have defaults"
    if isinstance(error, TypeError | AttributeError) and "NoneType" in said:
        return (
            "if it wants labels for a loss of its own, let its forward return its maps without one "
            "where it is given no labels, while training, too"
        )
    if "CUDA" in said or "NVIDIA" in said or "same device" in said:
        return f"leave .cuda() and fixed devices out of it: {arg('device')} decides where it runs"
    if isinstance(error, AssertionError) or "size" in said or "shape" in said:
        return (
            f"if it takes certain sizes alone, choose {arg('input_size')}, and the method's "
            "scales and "
            "crops, so"
        )
    if "dtype" in said or "Half" in said or "type" in said:
        return "images and weights are float32, so leave casts to other types out of it"
    if isinstance(error, NotImplementedError):
        return "a network has a forward method that takes images"
    return "it must take normalised images (B, 3, H, W), float32, and return a map of K channels"


def _candidate(network: nn.Module, path: str, made: Tensor, images: Tensor) -> CandidateMap:
    graph = Graph(made, images)
    names = {id(p): n for n, p in network.named_parameters()}
    mixing, behind = graph.last_mixing()
    weights = [*(w for one in mixing for w in one.weights), *behind]
    last = {id(w) for w in weights}
    head = tuple(name for made_by, name in names.items() if made_by in last)
    makers = tuple(
        (_layer_of(next((names[id(w)] for w in one.weights if id(w) in names), UNREGISTERED)), one)
        for one in mixing
    )
    reach = None if graph.opaque else sum(w.numel() for w in graph.reached if id(w) in names)
    return CandidateMap(path, tuple(made.shape), head, makers, reach, _sums_to_one(made), graph)


def _sums_to_one(made: Tensor) -> bool:
    """True of what a softmax made: no channel below 0, and 1 is the sum of each pixel's."""
    if torch.compiler.is_compiling():  # then there are no values to look at
        return False
    total = made.detach().sum(dim=1)
    return bool((made >= 0).all() and torch.allclose(total, torch.ones_like(total), atol=1e-3))


def _layer_of(weight: str) -> str:
    """The layer that a weight is of; its parametrization, a weight norm's say, is not another."""
    layer, _, _ = weight.partition(".parametrizations.")
    return layer if layer != weight else weight.rpartition(".")[0] or weight
