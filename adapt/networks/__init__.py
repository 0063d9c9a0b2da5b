"""Segmentation networks by name: registered ones, and anyone's by ``package.module:factory``.

A new network is one file here and one line in ``registry.NETWORKS``; elsewhere, one file and
`register_network`, or an entry point.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from ...runtime.errors import NetworkError, naming
from .base import Output, Preprocessing, SegmentationNetwork
from .foreign.adapter import ForeignNetwork, adapt_foreign, settled
from .foreign.factory import make_with
from .foreign.user_modules import import_callable, user_modules
from .outlines import outlines
from .registry import NETWORKS, added_networks, factory_of, register_network

__all__ = [
    "NETWORKS",
    "ForeignNetwork",
    "NetworkSummary",
    "Output",
    "Preprocessing",
    "SegmentationNetwork",
    "adapt_foreign",
    "build_network",
    "check_network",
    "import_callable",
    "network_summaries",
    "register_network",
]


class NetworkSummary(NamedTuple):
    """A network in a listing: ``parameters`` are counted with 19 classes; None: not countable."""

    name: str
    parameters: int | None
    stride: int | None
    description: str
    paper: str


def build_network(name: str, num_classes: int, /, **arguments: Any) -> SegmentationNetwork:
    """Build a network with freshly initialised weights, which knows how to build itself anew.

    Args:
        name: a key of ``NETWORKS``, one of `registry.added_networks`, or
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
    if name not in NETWORKS:
        return _build_added(name, num_classes, arguments)
    signature = inspect.signature(NETWORKS[name])
    own = [
        f"{p.name}={p.default}" for p in signature.parameters.values() if p.name != "num_classes"
    ]
    takes = f"it takes {', '.join(own)}" if own else "it takes none"
    try:
        signature.bind(num_classes=num_classes, **arguments)
    except TypeError as error:
        raise NetworkError(f"network '{name}': {error}; {takes}.") from error

    def build() -> SegmentationNetwork:
        try:
            network = NETWORKS[name](num_classes=num_classes, **arguments)
        except NetworkError:
            raise
        except Exception as error:  # of torch, of an argument that is no number, of memory
            said = f"{type(error).__name__}: {error}"
            raise NetworkError(
                f"network '{name}' cannot be built with its arguments ({said}); {takes}."
            ) from error
        network.rebuild = build
        return network

    return build()


def check_network(argument: str, name: str) -> None:
    """Refuse a name, given as that argument, that `build_network` knows no network of.

    Raises:
        NetworkError: no such network, module or factory.
    """
    with naming(**{argument: NetworkError}):
        if name not in NETWORKS:
            _factory(name)


def network_summaries() -> list[NetworkSummary]:
    """Every network that has a name; no weights are allocated, where its factory leaves that to us.

    One of an installed package that cannot be built says so as its description.
    """
    summaries = []
    for name in [*NETWORKS, *added_networks()]:
        try:
            with outlines():
                network = _unsettled(name, 19)
        except NetworkError as error:
            summaries.append(NetworkSummary(name, None, None, str(error), ""))
            continue
        parameters = sum(parameter.numel() for parameter in network.parameters())
        summaries.append(
            NetworkSummary(name, parameters, network.stride, network.description, network.paper)
        )
    return summaries


def _unsettled(name: str, num_classes: int) -> SegmentationNetwork:
    """A network to count, on the device that torch builds on."""
    if name in NETWORKS:
        return NETWORKS[name](num_classes=num_classes)
    where, (factory, module_name) = f"network '{name}'", _factory(name)
    with user_modules(module_name):
        module, _ = make_with(factory, where, num_classes, {})
    return adapt_foreign(module, num_classes, where)


def _factory(name: str) -> tuple[Callable[..., Any], str]:
    found = factory_of(name, f"network '{name}'")
    if found is None:
        known = ", ".join([*NETWORKS, *added_networks()])
        raise NetworkError(
            f"there is no network '{name}'; choose one of {known}, or name your own "
            "as package.module:factory."
        )
    return found


def _build_added(name: str, num_classes: int, arguments: dict[str, Any]) -> SegmentationNetwork:
    where, (factory, module_name) = f"network '{name}'", _factory(name)

    def build() -> SegmentationNetwork:
        with user_modules(module_name):  # a factory may import only when it is called
            module, called = make_with(factory, where, num_classes, arguments)
        network = settled(adapt_foreign(module, num_classes, where), where)
        network.rebuild, network.called = build, called
        return network

    return build()
