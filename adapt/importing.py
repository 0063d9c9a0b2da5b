"""Weights in and out: foreign checkpoints without running their code, and safetensors files.

Pickle is a program; ``torch.load`` is only ever called with ``weights_only=True``, and a file that
needs more is refused.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..runtime.errors import NetworkError
from .networks.base import SegmentationNetwork
from .networks.deeplab_v2 import DILATIONS, INITIAL_STD

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.")


def read_checkpoint(path: Path | str) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a ``.safetensors`` file or a PyTorch checkpoint.

    A state dict below ``state_dict``, ``model_state_dict``, ``model`` or ``net`` is found, and a
    prefix ``module.``, ``model.``, ``backbone.`` or ``_orig_mod.`` that every name has is dropped.

    Raises:
        NetworkError: the file is missing, damaged or not a checkpoint, would run code when read,
            or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise NetworkError(f"{path}: no such file; give the checkpoint to read.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = _unwrap(content)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise NetworkError(
            f"{path}: holds no state dict (found {_first(map(str, state))}); re-save it with "
            "torch.save(model.state_dict(), path)."
        )
    tensors = {str(name): value.detach() for name, value in state.items()}
    skip = len(_shared_prefix(tensors))
    return {name[skip:]: value for name, value in tensors.items()}


def load_weights(
    network: SegmentationNetwork,
    state: Mapping[str, Tensor],
    where: str,
    *,
    label_space: str = "the label space",
) -> None:
    """Copy ``state``, as :func:`read_checkpoint` returns it, into the network; every name must fit.

    ``num_batches_tracked`` may be missing: checkpoints older than PyTorch 0.4.1 lack it.

    Args:
        network: changed in place, and only if everything fits.
        state: tensors by name.
        where: the file, for messages.
        label_space: the label space's name, for messages.

    Raises:
        NetworkError: another class count, missing or unexpected names, or other shapes.
    """
    own = network.state_dict()
    prefix = _shared_prefix(own)
    state = {prefix + name: value for name, value in state.items()}
    _check_class_count(network, state, where, label_space)
    counters = {
        name: value
        for name, value in own.items()
        if name.endswith("num_batches_tracked") and name not in state
    }
    missing = [name for name in own if name not in state and name not in counters]
    unexpected = [name for name in state if name not in own]
    if missing or unexpected:
        raise NetworkError(
            f"{where}: the weights do not fit the network: "
            f"{len(missing)} names are missing ({_first(missing)}), "
            f"{len(unexpected)} are unexpected ({_first(unexpected)}); "
            "choose the network and arguments that they were saved from."
        )
    differing = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if differing:
        raise NetworkError(
            f"{where}: {len(differing)} tensors have another shape than the network's: "
            f"{_first(differing)}; choose the network and arguments that they were saved from."
        )
    network.load_state_dict({**state, **counters})


def load_weights_file(
    network: SegmentationNetwork, path: Path | str, *, label_space: str = "the label space"
) -> None:
    """:func:`read_checkpoint`, then :func:`load_weights`; raises what they raise."""
    load_weights(network, read_checkpoint(path), str(path), label_space=label_space)


def read_weights(content: bytes, where: str) -> dict[str, Tensor]:
    """Tensors by name, as :func:`read_checkpoint` gives them, of a ``.safetensors`` file's bytes.

    Raises:
        NetworkError: the bytes are no such file; ``where`` begins the sentence.
    """
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise NetworkError(
            f"{where}: not a readable safetensors file ({error}), as a bundle's weights are."
        ) from error
    skip = len(_shared_prefix(tensors))
    return {name[skip:]: value for name, value in tensors.items()}


def save_weights(network: SegmentationNetwork) -> bytes:
    """The network's parameters and buffers as the content of a ``.safetensors`` file."""
    state = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }
    content: bytes = safetensors.torch.save(state)
    return content


def detect_deeplab_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments, ``num_classes`` among them, with which ``deeplab_v2_resnet101`` fits ``state``.

    Heads and blocks show in the names. Whether all four dilated convolutions are summed shows in
    the weights: AdaptSegNet's code never reaches the last two, which stay as they were drawn from
    N(0, 0.01^2); if they, and not the first two, agree with that to five standard errors of mean
    and deviation, two are summed. The rule follows from the published training code.

    Raises:
        NetworkError: the names are not those of a DeepLabV2.
    """
    heads = [head for head in ("layer5", "layer6") if f"{head}.conv2d_list.0.weight" in state]
    blocks = [
        len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    ]
    names = [f"{head}.conv2d_list.{i}.weight" for head in heads for i in range(len(DILATIONS))]
    if not heads or not all(blocks) or not all(name in state for name in names):
        raise NetworkError(
            "the weights are not in the DeepLabV2 layout (layer1 to layer4, and conv2d_list of "
            f"layer5 or layer6); found {_first(state)}."
        )
    branches = [state[name] for name in names[-len(DILATIONS) :]]
    return {
        "num_classes": branches[0].shape[0],
        "multi_level": len(heads) == 2,
        "head": heads[-1],
        "aspp_branches": _summed_branches(branches),
        "layers": blocks,
    }


def detect_vgg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same for ``deeplab_v2_vgg16``: ``num_classes`` and ``aspp_branches``.

    Raises:
        NetworkError: the names are not those of a DeepLabV2 over VGG-16.
    """
    names = [f"classifier.conv2d_list.{i}.weight" for i in range(len(DILATIONS))]
    if "features.0.weight" not in state or not all(name in state for name in names):
        raise NetworkError(
            "the weights are not in the layout of DeepLabV2 over VGG-16 (features.N, and "
            f"conv2d_list of classifier); found {_first(state)}."
        )
    branches = [state[name] for name in names]
    return {"num_classes": branches[0].shape[0], "aspp_branches": _summed_branches(branches)}


ARGUMENTS_OF: Mapping[str, Callable[[Mapping[str, Tensor]], dict[str, Any]]] = {
    "deeplab_v2_resnet101": detect_deeplab_arguments,
    "deeplab_v2_vgg16": detect_vgg_arguments,
}
"""What tells a network's arguments, ``num_classes`` among them, from its published weights."""


def _summed_branches(branches: Sequence[Tensor]) -> int:
    """How many of the dilated convolutions' weights were trained: 2 or 4."""
    initial = [_is_initial(weight) for weight in branches]
    return 2 if initial == [False, False, True, True] else 4


def _is_initial(weight: Tensor) -> bool:
    """Whether weights look drawn from N(0, INITIAL_STD^2) to five standard errors."""
    w = weight.double()
    error = 5 * INITIAL_STD / math.sqrt(w.numel())
    return bool(w.mean().abs() < error and (w.std() - INITIAL_STD).abs() < error / math.sqrt(2))


def _check_class_count(
    network: SegmentationNetwork, state: Mapping[str, Tensor], where: str, label_space: str
) -> None:
    """Refuse weights whose classifier differs from the network's in the number of classes alone."""
    differing = [
        (name, parameter)
        for name, parameter in network.named_parameters()
        if name in state and state[name].shape != parameter.shape
    ]
    if not differing:
        return
    classifier = {id(parameter) for parameter in network.classifier_parameters()}
    for name, parameter in differing:
        if id(parameter) not in classifier:
            continue
        found, expected = state[name].shape, parameter.shape
        only_first_differs = len(found) == len(expected) and found[1:] == expected[1:]
        if only_first_differs and expected[0] == network.num_classes:
            raise NetworkError(
                f"{where}: the weights have {found[0]} classes, {label_space} has {expected[0]}; "
                "choose the label space that they were trained with."
            )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise NetworkError(f"{path}: not a readable safetensors file ({error}).") from error
    return tensors


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the formats that torch.load knows fail in their own ways
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise NetworkError(
                f"{path}: holds more than tensors ({refused[1]}) and is refused, for reading it "
                "would run code; where you trust it, re-save it with "
                "torch.save(model.state_dict(), path)."
            ) from error
        if "TorchScript" in str(error):
            raise NetworkError(
                f"{path}: is a TorchScript archive, which holds code, and is refused; re-save it "
                "with torch.save(model.state_dict(), path)."
            ) from error
        raise NetworkError(
            f"{path}: damaged, or not a PyTorch checkpoint ({type(error).__name__})."
        ) from error


def _unwrap(content: Any) -> dict[Any, Any]:
    """The innermost mapping below the usual wrappers; empty if there is none."""
    for _ in _WRAPPERS:  # a pickle may hold itself; no honest one nests deeper
        if not isinstance(content, Mapping):
            return {}
        inner = (content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping))
        content = next(inner, content)
    return dict(content)


def _shared_prefix(names: Mapping[str, Any]) -> str:
    """The longest chain of known prefixes that every name starts with."""
    shared = ""
    while names:
        longer = (shared + prefix for prefix in _PREFIXES)
        found = next((p for p in longer if all(name.startswith(p) for name in names)), None)
        if found is None:
            break
        shared = found
    return shared


def _first(names: Iterable[str]) -> str:
    """The first five, and a mark if there are more."""
    listed = list(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "") or "none"
