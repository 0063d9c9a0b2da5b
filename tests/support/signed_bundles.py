"""Bundles to sign: small ones that an engine opens, and what was made from them."""

from __future__ import annotations

from pathlib import Path

from roadshift.runtime.bundle import Bundle, BundleWriter, InputSpec, NetworkSpec, Provenance
from spaces import FOUR
from tiny_onnx import tiny_onnx, tiny_weight

WIDTH, HEIGHT = 32, 16


def small_bundle(path: Path, seed: int = 0, parent: str | None = None) -> Bundle:
    """A bundle of a tiny ONNX model with random weights of that seed."""
    with BundleWriter(path) as writer:
        writer.add_bytes(
            "model.onnx",
            tiny_onnx(WIDTH, HEIGHT, tiny_weight(seed)),
            kind="onnx",
            precision="fp32",
            target="onnx",
        )
        return writer.commit(
            network=NetworkSpec(name="tiny"),
            label_space=FOUR,
            input=InputSpec(width=WIDTH, height=HEIGHT, mean=(0, 0, 0), std=(1, 1, 1)),
            provenance=Provenance(parent=parent, method="test"),
        )


def adapted_from(parent: Bundle, path: Path, seed: int = 5) -> Bundle:
    """A bundle that says that it was made from ``parent``."""
    return small_bundle(path, seed, parent.hash)
