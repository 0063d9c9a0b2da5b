"""The networks by name: Roadshift's own, those that a program registers, and installed packages'.

A package that brings a network names its factory in its metadata; it is imported when the network
is used, or listed:

    [project.entry-points."roadshift.networks"]
    road_net = "some_package.road_net:RoadNet"
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar, overload

from torch import nn

from ...runtime.errors import NetworkError
from .base import SegmentationNetwork
from .bisenetv2 import BiSeNetV2
from .ddrnet import DDRNet23, DDRNet23Slim
from .deeplab_v2 import DeepLabV2
from .deeplab_v2_vgg16 import DeepLabV2VGG16
from .deeplab_v3plus import DeepLabV3Plus
from .espnetv2 import ESPNetv2
from .fast_scnn import FastSCNN
from .foreign.transformers_models import is_of_transformers, transformers_factory
from .foreign.trust import registered_factory, registered_names
from .foreign.user_modules import import_callable
from .pidnet import PIDNetL, PIDNetM, PIDNetS
from .segformer import (
    SegFormerB0,
    SegFormerB1,
    SegFormerB2,
    SegFormerB3,
    SegFormerB4,
    SegFormerB5,
)

NETWORKS: dict[str, Callable[..., SegmentationNetwork]] = {
    "deeplab_v2_resnet101": DeepLabV2,
    "deeplab_v2_vgg16": DeepLabV2VGG16,
    "fast_scnn": FastSCNN,
    "espnetv2": ESPNetv2,
    "pidnet_s": PIDNetS,
    "pidnet_m": PIDNetM,
    "pidnet_l": PIDNetL,
    "ddrnet23_slim": DDRNet23Slim,
    "ddrnet23": DDRNet23,
    "bisenetv2": BiSeNetV2,
    "deeplab_v3plus": DeepLabV3Plus,
    "segformer_b0": SegFormerB0,
    "segformer_b1": SegFormerB1,
    "segformer_b2": SegFormerB2,
    "segformer_b3": SegFormerB3,
    "segformer_b4": SegFormerB4,
    "segformer_b5": SegFormerB5,
}

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])
_REGISTERED: dict[str, Callable[..., nn.Module]] = {}  # by the program that runs
_WANTED = "a function or class that takes num_classes and returns an nn.Module"


@overload
def register_network(name: str) -> Callable[[Factory], Factory]: ...
@overload
def register_network(name: str, factory: Factory) -> Factory: ...
def register_network(name: str, factory: Factory | None = None) -> Any:
    """Make a network known by ``name`` to every command and function, also as a decorator.

    A bundle keeps the name alone, so a program that opens one later registers the network first; a
    package that is to be known to the command line uses an entry point, see the top of this module.

    Args:
        name: letters, digits, "_", "-" and ".".
        factory: a class or function that is given the number of classes, under whatever name
            `factory.make_with` finds for it, and the network's own arguments; returns an
            ``nn.Module`` whose logits are (B, K, h, w), see `foreign.ForeignNetwork`. Without it
            this is a decorator: ``@register_network("road_net")``.

    Raises:
        NetworkError: the name is taken or is no name, or the factory cannot be called.
    """
    if factory is None:
        return lambda decorated: register_network(name, decorated)
    problem = _problem(name, factory)
    if problem:
        raise NetworkError(f"network {name!r} cannot be registered: {problem}.")
    _REGISTERED[name] = factory
    return factory


def _problem(name: str, factory: object) -> str | None:
    """The reason why the two cannot be registered; ``None``: they can."""
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z_][\w.-]*", name)):
        return "a name is letters, digits, underscores, hyphens and dots"
    if not callable(factory):
        return f"{factory!r} is not {_WANTED}"
    if name in NETWORKS:
        return "Roadshift has one of that name; choose another"
    if _REGISTERED.get(name, factory) is not factory:
        return f"{_REGISTERED[name]!r} has that name already; choose another"
    if name not in _REGISTERED and name in registered_names():
        return "an installed package has one of that name; choose another"
    return None


def added_networks() -> list[str]:
    """Names of the networks that the running program and installed packages add."""
    return list(dict.fromkeys([*_REGISTERED, *registered_names()]))


def factory_of(name: str, where: str) -> tuple[Callable[..., Any], str] | None:
    """The factory of a network that is not one of `NETWORKS`, and the module that it comes from.

    Args:
        name: one of `added_networks`, or ``package.module:factory``.
        where: begins every message, "network 'x'".

    Returns:
        ``None`` where there is no such name.

    Raises:
        NetworkError: the module cannot be imported, or holds no such factory.
    """
    if name in _REGISTERED:
        return _REGISTERED[name], str(getattr(_REGISTERED[name], "__module__", "__main__"))
    path = name if ":" in name else registered_factory(name)
    if path is None:
        return None
    module, _, attribute = path.partition(":")
    if is_of_transformers(path):  # of which its classes for segmentation alone may be named
        return transformers_factory(attribute, where), module
    return import_callable(path, where, _WANTED), module
