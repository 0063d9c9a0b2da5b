"""The package's own networks by the ``model_type`` of a hub folder.

One that is not here is built by the installed ``transformers``, where a user names it. A network of
ours needs one line in `OF_MODEL_TYPE`: a function that reads ``config.json`` and says the name in
``NETWORKS`` and the arguments, or the setting that ours lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...runtime.bundle import NetworkSpec
from ...runtime.errors import NetworkError, arg
from ...runtime.words import shortened
from ..networks import NETWORKS
from ..networks.foreign.transformers_models import (
    AUTO,
    PACKAGE,
    is_of_transformers,
    model_settings,
)
from ..networks.segformer import (
    KERNELS,
    STRIDES,
    SegFormer,
    SegFormerB0,
    SegFormerB1,
    SegFormerB2,
    SegFormerB3,
    SegFormerB4,
    SegFormerB5,
)
from .hub_folder import HubFolder
from .loading import network_spec


class OwnNetwork(NamedTuple):
    """One of ``NETWORKS`` and its arguments."""

    name: str
    arguments: Mapping[str, Any]


class Lacking(NamedTuple):
    """A setting of ``config.json`` that none of ours has, and the one value that ours have."""

    setting: str
    ours: Any


_SEGFORMERS = (SegFormerB0, SegFormerB1, SegFormerB2, SegFormerB3, SegFormerB4, SegFormerB5)
_SEGFORMER_FIXED = {  # as transformers has it where a folder does not say
    "num_encoder_blocks": 4,
    "patch_sizes": list(KERNELS),
    "strides": list(STRIDES),
    "hidden_act": "gelu",
    "num_channels": 3,
    "reshape_last_stage": True,
}
_SEGFORMER_ARGUMENTS = {  # the first three are the published sizes' difference
    "hidden_sizes": "widths",
    "depths": "depths",
    "decoder_hidden_size": "decoder_width",
    "num_attention_heads": "heads",
    "sr_ratios": "reductions",
    "mlp_ratios": "expansions",
}


def _segformer(config: Mapping[str, Any]) -> OwnNetwork | Lacking:
    """The published size that a SegFormer is, or B0 with other arguments.

    A setting that is left out has the default of transformers, which is B0's.
    """
    for key, value in _SEGFORMER_FIXED.items():
        if config.get(key, value) != value:
            return Lacking(key, value)
    usual = _settings(SegFormerB0)
    asked = {key: config.get(key, value) for key, value in usual.items()}
    size = tuple(_SEGFORMER_ARGUMENTS)[:3]
    sizes = {f"segformer_b{i}": _settings(network) for i, network in enumerate(_SEGFORMERS)}
    fits = (n for n, own in sizes.items() if all(asked[key] == own[key] for key in size))
    name = next(fits, "segformer_b0")
    return OwnNetwork(
        name,
        {_SEGFORMER_ARGUMENTS[k]: v for k, v in asked.items() if v != sizes[name][k]},
    )


def _settings(network: type[SegFormer]) -> dict[str, Any]:
    """A size as ``config.json`` writes it."""
    own = network.size._asdict()
    return {
        key: list(own[name]) if isinstance(own[name], tuple) else own[name]
        for key, name in _SEGFORMER_ARGUMENTS.items()
    }


OF_MODEL_TYPE: dict[str, Callable[[Mapping[str, Any]], OwnNetwork | Lacking]] = {
    "segformer": _segformer,
}


def hub_network(folder: HubFolder, asked: str | None) -> NetworkSpec:
    """The network that a folder's model is built with.

    Args:
        asked: the network that the user named; ``None``: one of ours.

    Raises:
        NetworkError: none was named, and it is none of ours, or has a setting that ours lacks; or
            the folder asks for more than a description may, see `model_settings`.
    """
    if asked is not None and is_of_transformers(asked):
        return network_spec(asked, {"config": model_settings(folder.config, folder.config_file)})
    reader = OF_MODEL_TYPE.get(folder.model_type)
    read = None if reader is None else reader(folder.config)
    own = read if isinstance(read, OwnNetwork) and read.name in NETWORKS else None
    if asked is None:
        if own is None:
            why = "which is none of the networks of roadshift; "
            if isinstance(read, Lacking):
                value = shortened(repr(folder.config[read.setting]))
                why = f"whose {read.setting} is {value}, and {read.ours!r} in ours; "
            raise NetworkError(
                f"{folder.path}: is of type {folder.model_type}, {why}build it with the installed "
                f"{PACKAGE}, by {arg('network')} {PACKAGE}:{AUTO}."
            )
        return network_spec(own.name, own.arguments)
    return network_spec(asked, own.arguments if own is not None and own.name == asked else {})
