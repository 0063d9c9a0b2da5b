"""Segmentation networks by name: registered ones, and anyone's by ``package.module:factory``.

A new network is one file here and one line in ``NETWORKS``.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from ...runtime.errors import NetworkError
from .base import Output, Preprocessing, SegmentationNetwork
from .deeplab_v2 import DeepLabV2
from .deeplab_v2_vgg16 import DeepLabV2VGG16
from .factory import make_with
from .fast_scnn import FastSCNN
from .foreign import ForeignNetwork, adapt_foreign, settled

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
}


class NetworkSummary(NamedTuple):
    """A registered network in a listing: ``parameters`` are counted with 19 classes."""

    name: str
    parameters: int
    stride: int | None
    description: str
    paper: str


def build_network(name: str, num_classes: int, **arguments: Any) -> SegmentationNetwork:
    """Build a network with freshly initialised weights, which knows how to build itself anew.

    Args:
        name: a key of ``NETWORKS``, or ``package.module:factory``, imported with the current
            directory on the path and called with the number of classes, see `factory.make_with`.
        num_classes: K, at least 2.
        **arguments: the network's own; one that means the number of classes must be K.

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
    if ":" in name:
        return _build_foreign(name, num_classes, arguments)
    if name not in NETWORKS:
        raise NetworkError(
            f"there is no network '{name}'; choose one of {', '.join(NETWORKS)}, or name your own "
            "as package.module:factory."
        )
    try:
        inspect.signature(NETWORKS[name]).bind(num_classes=num_classes, **arguments)
    except TypeError as error:
        raise NetworkError(f"network '{name}': {error}; see its arguments.") from error

    def build() -> SegmentationNetwork:
        network = NETWORKS[name](num_classes=num_classes, **arguments)
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
    with current_directory_on_path():
        factory = import_callable(name, where, wanted)

    def build() -> SegmentationNetwork:
        with current_directory_on_path():  # a factory may import only when it is called
            module, called = make_with(factory, where, num_classes, arguments)
        network = settled(adapt_foreign(module, num_classes, where), where)
        network.rebuild, network.called = build, called
        return network

    return build()


def import_callable(name: str, where: str, wanted: str) -> Callable[..., Any]:
    """What ``package.module:attribute`` names, with the current directory on the path.

    Raises:
        NetworkError: there is no such module or attribute, importing it raised, or it cannot be
            called. ``where`` begins the sentence, and ``wanted`` says what should be there.
    """
    module_name, _, attribute = name.partition(":")
    with current_directory_on_path():
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            if _is_missing(error, module_name):
                raise NetworkError(
                    f"{where}: there is no module '{module_name}' in the environment or "
                    f"in {os.getcwd()}; run from the folder that holds it, or install it."
                ) from error
            raise NetworkError(
                f"{where}: importing '{module_name}' raised {type(error).__name__}: {error}"
            ) from error
    found: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(found):
        problem = "is not callable" if hasattr(module, attribute) else "does not exist"
        raise NetworkError(f"{where}: '{attribute}' {problem} in {module.__file__}; name {wanted}.")
    return found


def _is_missing(error: Exception, module_name: str) -> bool:
    """Whether the module itself, or a package that it lies in, was not found."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return False
    return f"{module_name}.".startswith(f"{error.name}.")


@contextmanager
def current_directory_on_path() -> Iterator[None]:
    """Search the current directory first, for the duration."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
