"""Segmentation networks by name: registered ones, and anyone's by ``package.module:factory``.

A new network is one file here and one line in ``NETWORKS``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ...runtime.errors import NetworkError
from .base import Output, Preprocessing, SegmentationNetwork
from .deeplab_v2 import DeepLabV2
from .deeplab_v2_vgg16 import DeepLabV2VGG16
from .espnetv2 import ESPNetv2
from .factory import make_with
from .fast_scnn import FastSCNN
from .foreign import ForeignNetwork, adapt_foreign, settled
from .trust import registered_factory, registered_names
from .user_modules import import_callable, user_modules

__all__ = [
    "NETWORKS",
    "ForeignNetwork",
    "NetworkSummary",
    "Output",
    "Preprocessing",
    "SegmentationNetwork",
    "adapt_foreign",
    "build_network",
    "import_callable",
    "network_summaries",
]

NETWORKS: dict[str, Callable[..., SegmentationNetwork]] = {
    "deeplab_v2_resnet101": DeepLabV2,
    "deeplab_v2_vgg16": DeepLabV2VGG16,
    "fast_scnn": FastSCNN,
    "espnetv2": ESPNetv2,
}


class NetworkSummary(NamedTuple):
    """A registered network in a listing: ``parameters`` are counted with 19 classes."""

    name: str
    parameters: int
    stride: int | None
    description: str
    paper: str


def build_network(name: str, num_classes: int, /, **arguments: Any) -> SegmentationNetwork:
    """Build a network with freshly initialised weights, which knows how to build itself anew.

    Args:
        name: a key of ``NETWORKS``, an entry point of the group ``roadshift.networks``, or
            ``package.module:factory``, imported as `user_modules` says and called with the number
            of classes, see `factory.make_with`. A name that a file gives is to be asked about
            first, see `trust.check_allowed`.
        num_classes: K, at least 2.
        **arguments: the network's own, of any name; one that means the number of classes must be K.

    Raises:
        NetworkError: no such network, module or factory; an argument that it does not take; the
            factory raised, or did not return an ``nn.Module``; there is one class alone.
        ConfigError: an argument says another number of classes.
    """
    if num_classes < 2:
        raise NetworkError(
            f"network '{name}': of one class every pixel is that class, so there is nothing to "
            "tell apart; use a label space of two classes, the second being all the rest."
        )
    factory = name if ":" in name or name in NETWORKS else registered_factory(name)
    if factory is None:
        known = ", ".join([*NETWORKS, *registered_names()])
        raise NetworkError(
            f"there is no network '{name}'; choose one of {known}, or name your own "
            "as package.module:factory."
        )
    if ":" in factory:
        return _build_foreign(factory, num_classes, arguments)
    try:
        inspect.signature(NETWORKS[name]).bind(num_classes=num_classes, **arguments)
    except TypeError as error:
        raise NetworkError(f"network '{name}': {error}; see its arguments.") from error

    def build() -> SegmentationNetwork:
        try:
            network = NETWORKS[name](num_classes=num_classes, **arguments)
        except NetworkError:
            raise
        except Exception as error:  # of torch, of an argument that is no number, of memory
            said = f"{type(error).__name__}: {error}"
            raise NetworkError(
                f"network '{name}' cannot be built with its arguments ({said}); see its arguments."
            ) from error
        network.rebuild = build
        return network

    return build()


def network_summaries() -> list[NetworkSummary]:
    """Every registered network, in the registry's order; no weights are allocated."""
    summaries = []
    for name, factory in NETWORKS.items():
        with torch.device("meta"):
            network = factory(num_classes=19)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        summaries.append(
            NetworkSummary(name, parameters, network.stride, network.description, network.paper)
        )
    return summaries


def _build_foreign(name: str, num_classes: int, arguments: dict[str, Any]) -> SegmentationNetwork:
    where = f"network '{name}'"
    wanted = "a function or class that takes num_classes and returns an nn.Module"
    factory = import_callable(name, where, wanted)

    def build() -> SegmentationNetwork:
        with user_modules(name.partition(":")[0]):  # a factory may import only when it is called
            module, called = make_with(factory, where, num_classes, arguments)
        network = settled(adapt_foreign(module, num_classes, where), where)
        network.rebuild, network.called = build, called
        return network

    return build()
