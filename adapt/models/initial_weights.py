"""Weights to start training from: those of the network itself, or ImageNet's of its backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ...runtime.errors import NetworkError, Sentence
from ...runtime.words import counted
from ..networks.base import SegmentationNetwork
from .importing import Note, load_weights, read_checkpoint
from .weight_checks import check_values
from .weight_matching import match, shown


def load_initial_weights(
    network: SegmentationNetwork, path: Path | str, *, label_space: str, note: Note
) -> None:
    """Copy the weights of a file into the network, or into all of it but its classifier.

    The first where the file holds the classifier, see `load_weights`; the second where it holds the
    backbone alone, under the names of `SegmentationNetwork.backbone_names`, as weights trained on
    ImageNet do. What the backbone lacks stays as it was drawn.

    Args:
        network: changed in place, and only if everything fits.
        path: a PyTorch checkpoint or a safetensors file.
        label_space: the label space's name, for messages.
        note: called with a sentence on what was taken from where.

    Raises:
        NetworkError: the file is no checkpoint, or fits neither way.
    """
    state, where = network.in_own_names(read_checkpoint(path)), str(path)
    backbone = None if _has_classifier(network, state) else _backbone(network, state, where)
    if backbone is None:
        load_weights(network, state, where, label_space=label_space, note=note)
        return
    prefix, tensors = backbone
    own = network.state_dict()
    check_values(own, tensors, where)
    network.load_state_dict({**own, **tensors})
    drawn = [name for name, _ in network.named_parameters() if name not in tensors]
    parts = sorted({name.rpartition(".")[0] for name in drawn})
    note(
        Sentence(
            f"{where}: took {counted(len(tensors), 'tensor')} of the backbone"
            + (f" from {shown(prefix)}" if prefix else "")
            + f"; {', '.join(parts[:5])}{', ...' * (len(parts) > 5)} start from random weights."
        )
    )


def _has_classifier(network: SegmentationNetwork, state: Mapping[str, Tensor]) -> bool:
    """Tell whether a name of the network's classifier ends a name in the file."""
    head = {id(parameter) for parameter in network.classifier_parameters()}
    ends = tuple(name for name, p in network.named_parameters() if id(p) in head)
    return any(name.endswith(ends) for name in state)


def _backbone(
    network: SegmentationNetwork, state: Mapping[str, Tensor], where: str
) -> tuple[str, dict[str, Tensor]] | None:
    """The prefix of the backbone's tensors in a file, and them by the network's own names.

    ``None``: the file does not hold them all, in the shapes that the network has.
    """
    own, there_of = network.state_dict(), network.backbone_names()
    here_of = {there: here for here, there in there_of.items()}
    try:
        found = match(state, {there: own[here] for here, there in there_of.items()}, where)
    except NetworkError:
        return None  # the whole network's own message says more
    tensors = {here_of[there]: tensor for there, tensor in found.tensors.items()}
    if any(tensor.shape != own[name].shape for name, tensor in tensors.items()):
        return None
    return found.prefix, tensors
