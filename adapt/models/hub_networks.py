"""The package's own networks by the ``model_type`` of a hub folder.

One that is not here is built by the installed ``transformers``, where a user names it. A network of
ours needs one line in `OF_MODEL_TYPE`: a function that reads ``config.json`` and says the name in
``NETWORKS`` and the arguments, or ``None`` where the settings are of another variant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...runtime.bundle import NetworkSpec
from ...runtime.errors import NetworkError, arg
from ..networks import NETWORKS
from ..networks.foreign.transformers_models import (
    AUTO,
    PACKAGE,
    is_of_transformers,
    model_settings,
)
from .hub_folder import HubFolder
from .loading import network_spec


class OwnNetwork(NamedTuple):
    """One of ``NETWORKS`` and its arguments."""

    name: str
    arguments: Mapping[str, Any]


# Widths, blocks of each stage and the decoder's width: Table 6 of Xie et al. (arXiv:2105.15203).
_SEGFORMERS = {
    "segformer_b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "segformer_b1": ([64, 128, 320, 512], [2, 2, 2, 2], 256),
    "segformer_b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
    "segformer_b3": ([64, 128, 320, 512], [3, 4, 18, 3], 768),
    "segformer_b4": ([64, 128, 320, 512], [3, 8, 27, 3], 768),
    "segformer_b5": ([64, 128, 320, 512], [3, 6, 40, 3], 768),
}
_SEGFORMER_FIXED = {  # as every published size has it
    "num_attention_heads": [1, 2, 5, 8],
    "sr_ratios": [8, 4, 2, 1],
    "patch_sizes": [7, 3, 3, 3],
    "strides": [4, 2, 2, 2],
    "mlp_ratios": [4, 4, 4, 4],
    "hidden_act": "gelu",
    "num_channels": 3,
}


def _segformer(config: Mapping[str, Any]) -> OwnNetwork | None:
    """The published size that a SegFormer is; ``None`` of any other."""
    if any(config.get(key, value) != value for key, value in _SEGFORMER_FIXED.items()):
        return None
    size = tuple(config.get(key) for key in ("hidden_sizes", "depths", "decoder_hidden_size"))
    named = (name for name, published in _SEGFORMERS.items() if published == size)
    name = next(named, None)
    return None if name is None else OwnNetwork(name, {})


OF_MODEL_TYPE: dict[str, Callable[[Mapping[str, Any]], OwnNetwork | None]] = {
    "segformer": _segformer,
}


def hub_network(folder: HubFolder, asked: str | None) -> NetworkSpec:
    """The network that a folder's model is built with.

    Args:
        asked: the network that the user named; ``None``: one of ours.

    Raises:
        NetworkError: none was named, and it is none of ours; or the folder asks for more than a
            description may, see `model_settings`.
    """
    if asked is not None and is_of_transformers(asked):
        return network_spec(asked, {"config": model_settings(folder.config, folder.config_file)})
    own = _own(folder)
    if asked is None:
        if own is None:
            why = "which is none of the networks of roadshift; "
            if folder.model_type in OF_MODEL_TYPE:
                why = f"of no published size; name one of ours and its {arg('arguments')}, or "
            raise NetworkError(
                f"{folder.path}: is of type {folder.model_type}, {why}build it with the installed "
                f"{PACKAGE}, by {arg('network')} {PACKAGE}:{AUTO}."
            )
        return network_spec(own.name, own.arguments)
    return network_spec(asked, own.arguments if own is not None and own.name == asked else {})


def _own(folder: HubFolder) -> OwnNetwork | None:
    reader = OF_MODEL_TYPE.get(folder.model_type)
    own = None if reader is None else reader(folder.config)
    return own if own is not None and own.name in NETWORKS else None
