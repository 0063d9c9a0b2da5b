"""Bundles to sign: small ones that an engine opens, and what was made from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from roadshift.runtime.bundle import Bundle, BundleWriter, InputSpec, NetworkSpec, Provenance
from roadshift.runtime.labels import LabelSpace
from roadshift.runtime.slots.self_test import SELF_TEST_NAME, pack_self_test
from roadshift.runtime.verdict import Verdict
from spaces import FOUR
from tiny_onnx import tiny_onnx, tiny_weight

WIDTH, HEIGHT = 32, 16


def small_bundle(
    path: Path,
    seed: int = 0,
    parent: str | None = None,
    *,
    self_test: bool = False,
    wrong_labels: bool = False,
    classes: int = 4,
    mark: int | None = None,
    blind: bool = False,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    verdict: Verdict | None = None,
) -> Bundle:
    """A bundle of a tiny ONNX model with random weights of that seed.

    Args:
        self_test: bring one, with the model's own labels, or others with ``wrong_labels``.
        mark: tells bundles of the same weights apart.
        blind: it sees the first class alone.
        size: width and height of its input.
    """
    weight = tiny_weight(seed)[:classes]
    if blind:
        weight[:] = weight[:1] - 1.0 * (np.arange(len(weight)) > 0)[:, None]
    width, height = size
    names = FOUR.classes[:classes]
    space = LabelSpace(f"first{classes}", names, FOUR.colours[:classes], 255)
    with BundleWriter(path) as writer:
        writer.add_bytes(
            "model.onnx",
            tiny_onnx(width, height, weight),
            kind="onnx",
            precision="fp32",
            target="onnx",
        )
        if self_test:
            rng = np.random.default_rng(seed)
            frames = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
            labels = (frames @ weight.astype(np.float64).T).argmax(-1).astype(np.uint8)
            if wrong_labels:
                labels = (labels + 1) % classes
            writer.add_bytes(SELF_TEST_NAME, pack_self_test(frames, labels), kind="other")
        return writer.commit(
            network=NetworkSpec(name="tiny"),
            label_space=space if classes < len(FOUR.classes) else FOUR,
            input=InputSpec(width=width, height=height, mean=(0, 0, 0), std=(1, 1, 1)),
            provenance=Provenance(parent=parent, method="test", seed=mark),
            verdict=verdict,
        )


def adapted_from(parent: Bundle, path: Path, seed: int = 5) -> Bundle:
    """A bundle that says that it was made from ``parent``."""
    return small_bundle(path, seed, parent.hash)
