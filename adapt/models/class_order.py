"""Outputs of a network put in the order of the classes of a label space."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...runtime.errors import NetworkError, arg
from ..networks.base import SegmentationNetwork
from ..networks.foreign.forward_pass import left_as_it_was


def reorder_classes(
    network: SegmentationNetwork, order: Sequence[int], size: tuple[int, int], where: str
) -> None:
    """Put the network's output ``order[i]`` at index i, and see on noise that it is there.

    Args:
        network: in its trained weights; the rows of its last layers are exchanged in place.
        order: K indices, each once.
        size: (width, height) of the noise.
        where: the file, for messages.

    Raises:
        NetworkError: its outputs do not follow the rows of its last layers.
    """
    width, height = size
    index = torch.tensor(order)
    images = torch.randn((1, 3, height, width), generator=torch.Generator().manual_seed(0))
    mode = network.training
    network.eval()
    with torch.no_grad():
        with left_as_it_was(network):
            before = network(images).logits.detach()
        for parameter in network.classifier_parameters():
            if parameter.ndim and len(parameter) == len(order):
                parameter.copy_(parameter[index])
        with left_as_it_was(network):
            after = network(images).logits.detach()
    network.train(mode)
    scale = before.abs().amax().clamp(min=1e-6)
    if not torch.allclose(after / scale, before[:, index] / scale, atol=1e-4):
        raise NetworkError(
            f"{where}: has its classes in another order than the label space, and its last layer "
            f"is not one whose rows are classes; give {arg('label_space')} a JSON file with the "
            "classes in its own order."
        )
