"""Origins of an ONNX graph's weights in the weights of the network.

A graph's weights are not the network's: batch normalisation is folded into the convolution before
it, equal weights become one, a bias of zeros is dropped. So names, and even nodes, depend on the
values. Here a graph is traced with stand-in values, all different and none zero, which makes it the
same for every set of weights; each of its weights is recognised by its values and noted as a
`Fold`, and the network's own values are then written in. What was noted lets the next set of
weights be written into the same graph, or into an engine that was built from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from ..runtime.errors import EngineError, ParityError
from ..runtime.strict_json import JsonError, parse_json

FOLDS = "roadshift.folds"  # entries of a graph's metadata
NOT_REFITTABLE = "roadshift.not_refittable"
_TOLERANCE = 1e-5  # relative; a fold in float32 is off by some 1e-7, another weight by 1e-1

Array = NDArray[Any]
State = Mapping[str, Array]  # a network's state dict, as arrays


@dataclass(frozen=True)
class Fold:
    """Origin of one weight of a graph in the state dict.

    ==========  =============================================================================
    how         value
    ==========  =============================================================================
    copy        ``source``
    transpose   ``source``, a matrix, transposed
    weight      ``conv.weight * s`` along ``axis``, with ``s = norm.weight / sqrt(var + eps)``
    bias        ``(conv.bias - norm.mean) * s + norm.bias``
    gamma       the exponent of the bundle's input
    ==========  =============================================================================

    Attributes:
        source: a key of the state dict, for the first two.
        conv, norm: modules, for the folds of a batch normalisation into what comes before it.
        eps: of that normalisation.
        axis: of the output channels in the weight.
    """

    how: str
    source: str | None = None
    conv: str | None = None
    norm: str | None = None
    eps: float | None = None
    axis: int | None = None

    def value(self, state: State, gamma: float) -> Array:
        """The weight, float64, for these weights of the network and this input's gamma."""
        if self.how == "gamma":
            return np.asarray(gamma, dtype=np.float64)
        if self.how in ("copy", "transpose"):
            tensor = state[str(self.source)].astype(np.float64)
            return tensor.T if self.how == "transpose" else tensor
        mean = state[f"{self.norm}.running_mean"].astype(np.float64)
        variance = state[f"{self.norm}.running_var"].astype(np.float64)
        gain = state.get(f"{self.norm}.weight", np.ones_like(mean))
        scale = gain / np.sqrt(variance + (self.eps or 0.0))
        if self.how == "weight":
            weight = state[f"{self.conv}.weight"].astype(np.float64)
            shape = [1] * weight.ndim
            shape[self.axis or 0] = -1
            folded: Array = weight * scale.reshape(shape)
            return folded
        bias = state.get(f"{self.conv}.bias", np.zeros_like(mean))
        shift = state.get(f"{self.norm}.bias", np.zeros_like(mean))
        moved: Array = (bias - mean) * scale + shift
        return moved


Folds = dict[str, Fold]  # by the name of the graph's weight


def state_arrays(network: nn.Module) -> dict[str, Array]:
    """The floating-point entries of a network's state dict, float32."""
    return {
        name: tensor.detach().cpu().float().numpy()
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }


@contextmanager
def stand_in_weights(network: nn.Module) -> Iterator[dict[str, Array]]:
    """Give ``network`` values that are all positive and different, and its own back at the end."""
    learned = [t for t in network.state_dict().values() if t.is_floating_point()]
    own = [tensor.clone() for tensor in learned]
    generator = torch.Generator().manual_seed(0)
    try:
        for tensor in learned:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        yield state_arrays(network)
    finally:
        for tensor, values in zip(learned, own, strict=True):
            tensor.copy_(values)


def find_folds(
    model: onnx.ModelProto, network: nn.Module, state: State, used: set[str]
) -> Folds | str:
    """Find how each learned weight of ``model``, traced with ``state``, comes from ``state``.

    Args:
        model: float32; one weight that several nodes share stays one.
        network: names the modules and their kinds.
        state: of `stand_in_weights`, under which ``model`` was traced.
        used: keys of the state dict that the trace reads.

    Returns:
        The folds; or, as a sentence's end, what of the network is not in the graph as it is.
    """
    finder = _Finder(network, state)
    folds: Folds = {}
    arrays = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    floats = {name: array for name, array in arrays.items() if array.dtype == np.float32}
    for name, array in floats.items():
        if fold := finder.copied(array) or finder.scaled(array):
            folds[name] = fold
    pairs = [fold for fold in folds.values() if fold.how == "weight"]
    for name, array in floats.items():
        if name not in folds and (fold := finder.shifted(array, pairs)):
            folds[name] = fold
    covered = {key for fold in folds.values() for key in _sources(fold)} & state.keys()
    missing = sorted(
        key
        for key in used & state.keys() - covered  # but one tensor may go by two keys
        if not any(np.array_equal(state[key], state[other]) for other in covered)
    )
    if missing:
        return f"{few(missing)} cannot be found in its graph as they are in the network"
    return folds


def write_gamma(model: onnx.ModelProto, gamma: float) -> Folds:
    """The fold of the input's gamma where the graph raises pixels to it; its weight is its own."""
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Pow" and node.input[1] in weights:
            exponent = weights[node.input[1]]
            if np.allclose(numpy_helper.to_array(exponent), gamma):
                own = onnx.TensorProto()
                own.CopyFrom(exponent)
                own.name = node.input[1] = "normalise.gamma"
                model.graph.initializer.append(own)
                if not any(exponent.name in other.input for other in model.graph.node):
                    model.graph.initializer.remove(exponent)
                return {own.name: Fold("gamma")}
    return {}


def write_weights(
    model: onnx.ModelProto, folds: Mapping[str, Fold], state: State, gamma: float
) -> None:
    """Write a network's weights into the graph, each in the type that the graph has it in.

    Raises:
        KeyError: the graph or the network lacks a weight that the folds name.
        ParityError: a weight is beyond the range of the graph's type, or of another shape.
    """
    weights = {weight.name: weight for weight in model.graph.initializer}
    for name, fold in folds.items():
        old = numpy_helper.to_array(weights[name])
        new = cast_weight(name, fold, old, state, gamma)
        weights[name].CopyFrom(numpy_helper.from_array(new, name))


def cast_weight(name: str, fold: Fold, like: Array, state: State, gamma: float) -> Array:
    """One weight's new value in the shape and type of ``like``, for which see `write_weights`."""
    value = fold.value(state, gamma)
    if value.shape != like.shape:
        raise ParityError(
            f"Weight {name!r} is {like.shape} in the graph and {value.shape} in the network; the "
            "networks differ, so build anew instead of refitting."
        )
    with np.errstate(over="ignore"):
        cast: Array = value.astype(like.dtype)
    if not np.isfinite(cast.astype(np.float64)).all():
        raise ParityError(
            f"Weight {name!r} reaches {np.abs(value).max(initial=0.0):.3g}, which {like.dtype} "
            "cannot hold; use bf16 or fp32."
        )
    return cast


def folds_to_json(folds: Mapping[str, Fold]) -> dict[str, Any]:
    """JSON values, for a manifest or a graph's metadata."""
    return {
        name: {key: value for key, value in asdict(fold).items() if value is not None}
        for name, fold in folds.items()
    }


def folds_from_json(document: Mapping[str, Any]) -> Folds:
    """The folds that `folds_to_json` wrote.

    Raises:
        EngineError: it wrote something else.
    """
    try:
        return {name: Fold(**entry) for name, entry in document.items()}
    except (AttributeError, TypeError) as error:
        raise EngineError(
            f"The map of weights that the model carries is malformed ({error}); export it again."
        ) from error


def read_folds(model: onnx.ModelProto) -> Folds | None:
    """The folds that a graph carries; None where it carries none that fit its weights."""
    names = {weight.name for weight in model.graph.initializer}
    for entry in model.metadata_props:
        if entry.key == FOLDS:
            try:
                folds = folds_from_json(parse_json(entry.value))
            except JsonError as error:
                raise EngineError(
                    f"The map of weights that the model carries is damaged ({error}); export it "
                    "again."
                ) from error
            return folds if folds.keys() <= names else None
    return None


def set_metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    """Set one entry of a graph's metadata."""
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
            return
    entry = model.metadata_props.add()
    entry.key, entry.value = key, value


class _Finder:
    """Finder of weights by their values, which all differ."""

    def __init__(self, network: nn.Module, state: State) -> None:
        self.state = state
        self.by_shape: dict[tuple[int, ...], list[str]] = {}
        for key, array in state.items():
            self.by_shape.setdefault(array.shape, []).append(key)
        self.layers: dict[tuple[int, ...], list[tuple[str, int]]] = {}
        self.norms: dict[int, list[tuple[str, float]]] = {}
        for name, module in network.named_modules():
            axis = _output_axis(module)
            if axis is not None and f"{name}.weight" in state:
                shape = state[f"{name}.weight"].shape
                self.layers.setdefault(shape, []).append((name, axis))
            if f"{name}.running_var" in state:
                eps = float(getattr(module, "eps", 0.0))
                channels = state[f"{name}.running_var"].size
                self.norms.setdefault(channels, []).append((name, eps))

    def copied(self, array: Array) -> Fold | None:
        for key in self.by_shape.get(array.shape, ()):
            if np.array_equal(array, self.state[key]):
                return Fold("copy", source=key)
        if array.ndim == 2:
            for key in self.by_shape.get(array.shape[::-1], ()):
                if np.array_equal(array.T, self.state[key]):
                    return Fold("transpose", source=key)
        return None

    def scaled(self, array: Array) -> Fold | None:
        for conv, axis in self.layers.get(array.shape, ()):
            rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
            weight = np.moveaxis(self.state[f"{conv}.weight"], axis, 0).reshape(rows.shape)
            scale = rows[:, 0] / weight[:, 0]
            if not (_same(rows[0], weight[0] * scale[0]) and _same(rows, weight * scale[:, None])):
                continue
            for norm, eps in self.norms.get(len(scale), ()):
                fold = Fold("weight", conv=conv, norm=norm, eps=eps, axis=axis)
                if _same(array, fold.value(self.state, 1.0)):
                    return fold
        return None

    def shifted(self, array: Array, pairs: list[Fold]) -> Fold | None:
        for pair in pairs:
            fold = Fold("bias", conv=pair.conv, norm=pair.norm, eps=pair.eps)
            if array.shape == self.state[f"{pair.norm}.running_var"].shape and _same(
                array, fold.value(self.state, 1.0)
            ):
                return fold
        return None


def _output_axis(module: nn.Module) -> int | None:
    """The axis of the output channels of a layer's weight; None where it has no such weight."""
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return 1 if module.groups == 1 else None
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
        return 0
    return None


def _sources(fold: Fold) -> set[str]:
    if fold.source is not None:
        return {fold.source}
    parts = {"weight": ("weight",), "bias": ("bias",)}.get(fold.how, ())
    norm = ("weight", "running_var") if fold.how == "weight" else ("bias", "running_mean")
    return {f"{fold.conv}.{part}" for part in parts} | {f"{fold.norm}.{part}" for part in norm}


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=_TOLERANCE, atol=1e-6))


def few(names: list[str]) -> str:
    """The first three of ``names`` and how many more there are, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
