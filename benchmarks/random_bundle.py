"""A bundle of any network with random weights, for time and memory, which do not depend on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from roadshift.adapt.models.importing import save_weights
from roadshift.adapt.models.loading import IMAGENET_INPUT
from roadshift.adapt.networks import build_network
from roadshift.runtime.bundle import Bundle, BundleWriter, NetworkSpec, Provenance
from roadshift.runtime.labels import label_space


def random_bundle(
    path: Path,
    network: str,
    width: int,
    height: int,
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> Bundle:
    """Write ``path``: ``network`` for the 19 classes of Cityscapes, not exported."""
    torch.manual_seed(0)
    with BundleWriter(path) as writer:
        weights = save_weights(build_network(network, 19, **arguments).eval())
        writer.add_bytes("model.safetensors", weights, kind="weights")
        return writer.commit(
            network=NetworkSpec(name=network, arguments=dict(arguments)),
            label_space=label_space("cityscapes19"),
            input=IMAGENET_INPUT.model_copy(update={"width": width, "height": height}),
            provenance=Provenance(method="random weights"),
        )
