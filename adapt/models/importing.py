"""Weights in and out: foreign checkpoints into a network, and a network's as safetensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ...runtime.errors import NetworkError, Sentence, arg
from ...runtime.labels import LABEL_SPACES
from ...runtime.labels import label_space as built_in
from ...runtime.words import counted
from ..networks.base import SegmentationNetwork
from ..networks.deeplab_v2 import DILATIONS, INITIAL_STD
from ..networks.deeplab_v3plus import detect_v3plus_arguments
from ..networks.segformer_names import detect_segformer_arguments
from .weight_checks import check_not_quantised, check_values, converted
from .weight_files import read_weight_file
from .weight_matching import (
    COUNTER,
    Match,
    as_key,
    below_key,
    choose,
    flatten,
    listed,
    match,
    prefixes_of,
    shown,
    without_inner_wrappers,
)

Note = Callable[[str], None]
"""Takes one sentence for the user."""


def read_checkpoint(path: Path | str) -> dict[str, Tensor]:
    """Every tensor of a safetensors file or a PyTorch checkpoint, on the CPU.

    Names are dotted paths of keys, wrappers (``state_dict``) and prefixes (``module.``) included:
    `load_weights` finds a network in them.

    Raises:
        NetworkError: the file is missing, damaged, of another kind or holds no tensors, or would
            run code when read.
    """
    return flatten(read_weight_file(path), str(path))


def load_weights(
    network: SegmentationNetwork,
    state: Mapping[str, Tensor],
    where: str,
    *,
    label_space: str = "the label space",
    key: str | None = None,
    note: Note | None = None,
) -> None:
    """Copy weights, as `read_checkpoint` returns them, into the network.

    They may lie below any keys and behind any prefix, see `match`. Each of the network's names must
    be there but ``num_batches_tracked``, which checkpoints older than PyTorch 0.4.1 lack.

    Args:
        network: changed in place, and only if everything fits.
        state: tensors by name.
        where: the file, for messages.
        label_space: the label space's name, for messages.
        key: dotted; only tensors below it are looked at.
        note: called with what was taken from where, what it was converted from, and what was left
            out. None: nothing may be left out.

    Raises:
        NetworkError: another class count, missing or unexpected names, other shapes, values that
            no network can compute with, or several sets of weights that fit.
    """
    own = network.state_dict()
    inside, start = below_key(state, key, where)
    found, wrappers = _found(network.in_own_names(inside), own, where)
    _check_class_count(network, found.tensors, where, label_space)
    idle, trained = _left_out(found, network.idle_in_checkpoints, network.training_heads)
    refused = found.unexpected if note else (*found.unexpected, *found.left_out)
    unexpected = [name for name in refused if name not in (*idle, *trained)]
    if unexpected:
        raise NetworkError(
            f"{where}: the weights do not fit the network: 0 names are missing, "
            f"{len(unexpected)} are unexpected ({listed(unexpected)}); choose the network and "
            "arguments that they were saved from."
        )
    differing = [
        f"{name} is {tuple(value.shape)}, not {tuple(own[name].shape)}"
        for name, value in found.tensors.items()
        if value.shape != own[name].shape
    ]
    if differing:
        raise NetworkError(
            f"{where}: {len(differing)} tensors have another shape than the network's: "
            f"{listed(differing)}; choose the network and arguments that they were saved from."
        )
    check_values(own, found.tensors, where)
    counters = {name: own[name] for name in own.keys() - found.tensors.keys()}
    network.load_state_dict({**found.tensors, **counters})
    if note:
        note(_taken(found, own, start, wrappers, where, idle, trained))


def _left_out(found: Match, *groups: Sequence[str]) -> list[list[str]]:
    """Names of tensors beside the network's, for each group of parts those that lie in them."""
    beside = (*found.unexpected, *found.left_out)
    starts = [tuple(f"{found.prefix}{part}." for part in group) for group in groups]
    return [[name for name in beside if name.startswith(start)] for start in starts]


def _found(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], where: str
) -> tuple[Match, str]:
    """The network in a checkpoint, and the wrappers of its parts that stood in the names."""
    try:
        return match(tensors, own, where), ""
    except NetworkError:
        check_not_quantised(tensors, where)  # then names differ too, and this is what to say
        plain, wrappers = without_inner_wrappers(tensors, own)
        with suppress(NetworkError):
            if wrappers:
                return match(plain, own, where), wrappers
        raise


def load_weights_file(
    network: SegmentationNetwork,
    path: Path | str,
    *,
    label_space: str = "the label space",
    note: Note | None = None,
) -> None:
    """`read_checkpoint`, then `load_weights`; raises what they raise."""
    load_weights(network, read_checkpoint(path), str(path), label_space=label_space, note=note)


def _taken(
    found: Match,
    own: Mapping[str, Tensor],
    start: str,
    wrappers: str,
    where: str,
    idle: Sequence[str],
    trained: Sequence[str],
) -> str:
    """One sentence on which weights were read from where."""
    prefix = start + found.prefix
    parts = [
        f"{where}: took {counted(len(found.tensors), 'tensor')}"
        + (f" from {shown(prefix)}" if prefix else ", named as the network names them")
    ]
    parts += [f"{old} became {new}" for old, new in converted(own, found.tensors).items()]
    if wrappers:
        parts.append(f"of its names, what wraps parts of a network ({wrappers}) was left out")
    missing = len(own) - len(found.tensors)
    if missing:
        parts.append(f"{counted(missing, 'counter')} ({COUNTER}) not there and left at 0")
    if idle:
        parts.append(
            f"{counted(len(idle), 'tensor')} of a second classifier that the published code never "
            f"asks for ({listed(start + name for name in idle)}) left out"
        )
    if trained:
        heads = dict.fromkeys(n.removeprefix(found.prefix).partition(".")[0] for n in trained)
        parts.append(
            f"{counted(len(trained), 'tensor')} of heads that only training asks for "
            f"({', '.join(heads)}) left out"
        )
    if found.rivals:
        keys = ", ".join(f"{arg('key')} {as_key(start + p)}" if p else "those at the top"
                         for p in found.rivals[:5])  # fmt: skip
        parts.append(f"the network fits other weights in the file too ({keys})")
    named = tuple(p for p in found.rivals if p)
    told = (*idle, *trained)
    others = [
        start + name
        for name in found.left_out
        if name not in told and not (named and name.startswith(named))
    ]
    if others:
        count = "1 other tensor was" if len(others) == 1 else f"{len(others)} other tensors were"
        parts.append(f"{count} left out ({listed(others)})")
    return Sentence("; ".join(parts) + ".")


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
    return tensors


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
    and deviation, two are summed. The rule follows from the published training code. Of two heads
    of as many channels, as LD's checkpoints have them, ``layer5`` is the one that is asked.

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
            f"layer5 or layer6); found {listed(state)}."
        )
    channels = [state[f"{head}.conv2d_list.0.weight"].shape[1] for head in heads]
    multi_level = len(heads) == 2 and channels[0] < channels[1]  # layer5 classifies layer3
    head = heads[0] if len(heads) == 1 or not multi_level else "layer6"
    branches = [state[f"{head}.conv2d_list.{i}.weight"] for i in range(len(DILATIONS))]
    return {
        "num_classes": branches[0].shape[0],
        "multi_level": multi_level,
        "head": head,
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
            f"conv2d_list of classifier); found {listed(state)}."
        )
    branches = [state[name] for name in names]
    return {"num_classes": branches[0].shape[0], "aspp_branches": _summed_branches(branches)}


ARGUMENTS_OF: Mapping[str, Callable[[Mapping[str, Tensor]], dict[str, Any]]] = {
    "deeplab_v2_resnet101": detect_deeplab_arguments,
    "deeplab_v2_vgg16": detect_vgg_arguments,
    "deeplab_v3plus": detect_v3plus_arguments,
    **{f"segformer_b{size}": detect_segformer_arguments for size in range(6)},
}
"""What tells a network's arguments, ``num_classes`` among them, from its published weights."""


def detect_arguments(
    network: str, state: Mapping[str, Tensor], where: str, key: str | None = None
) -> dict[str, Any]:
    """Arguments of a network in `ARGUMENTS_OF`, wherever in a checkpoint its weights lie.

    Raises:
        NetworkError: its weights are not there, or several sets of them tell different arguments.
    """
    inside, _ = below_key(state, key, where)
    detect, told, problem = ARGUMENTS_OF[network], {}, None
    for prefix in prefixes_of(inside):
        part = {n.removeprefix(prefix): t for n, t in inside.items() if n.startswith(prefix)}
        try:
            told[prefix] = detect(part)
        except NetworkError as error:
            problem = problem or error
    if not told:
        raise NetworkError(f"{where}: {problem}") from problem
    if all(found == next(iter(told.values())) for found in told.values()):
        return next(iter(told.values()))
    return told[choose(list(told), lambda p: (inside[n] for n in inside if n.startswith(p)), where)]


def _summed_branches(branches: Sequence[Tensor]) -> int:
    """Count the dilated convolutions whose weights were trained: 2 or 4."""
    initial = [_is_initial(weight) for weight in branches]
    return 2 if initial == [False, False, True, True] else 4


def _is_initial(weight: Tensor) -> bool:
    """Tell whether weights look drawn from N(0, INITIAL_STD^2), to five standard errors."""
    w = weight.double()
    error = 5 * INITIAL_STD / math.sqrt(w.numel())
    return bool(w.mean().abs() < error and (w.std() - INITIAL_STD).abs() < error / math.sqrt(2))


def _check_class_count(
    network: SegmentationNetwork, state: Mapping[str, Tensor], where: str, label_space: str
) -> None:
    """Refuse weights that differ from the network's in the number of classes.

    They do where the classifier's tensors have one other count wherever the network's have
    ``num_classes``, or where that is all that differs: what inner layers make of the count, such as
    ESPNet's sums and multiples and ESPNetv2's halves, says nothing against it.
    """
    shapes = {
        name: (state[name].shape, own.shape)
        for name, own in network.state_dict().items()
        if name in state and state[name].ndim == own.ndim
    }
    differing = {p for pair in shapes.values() for p in zip(*pair, strict=True) if p[0] != p[1]}
    if not differing:
        return
    last = {id(parameter) for parameter in network.classifier_parameters()}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in last}
    for pairs in (
        {p for n in names & shapes.keys() for p in zip(*shapes[n], strict=True)},
        differing if all(own == network.num_classes for _, own in differing) else set(),
    ):
        counts = {found for found, own in pairs if own == network.num_classes}
        if len(counts) == 1 and network.num_classes not in counts:
            (count,) = counts
            known = [s.name for s in map(built_in, LABEL_SPACES) if s.num_classes == count]
            built = f" (of as many classes: {', '.join(known)})" if known else ""
            raise NetworkError(
                f"{where}: the weights have {count} classes, {label_space} has "
                f"{network.num_classes}; choose the label space that they were trained with{built}."
            )
