"""Bundles of networks that are in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roadshift.adapt.models.importing import save_weights
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.runtime.bundle import Bundle, BundleWriter, Provenance


def write_bundle(
    path: Path, model: SegmentationNetwork | None, like: Bundle | None = None, **parts: Any
) -> Bundle:
    """A bundle with the weights of ``model``, or without any.

    ``parts`` are its network, label_space, input and provenance; those of ``like`` are the rest.
    """
    if like is not None:
        manifest = like.manifest
        rest = {"network": manifest.network, "input": manifest.input}
        rest |= {"label_space": like.label_space, "provenance": manifest.provenance}
        parts = rest | parts
    with BundleWriter(path) as writer:
        if model is not None:
            writer.add_bytes("model.safetensors", save_weights(model), kind="weights")
        return writer.commit(**{"provenance": Provenance(), **parts})
