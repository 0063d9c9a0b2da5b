"""A bundle with a tiny ONNX model, made on the spot: class = argmax of a 1x1 convolution of RGB."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roadshift.runtime.bundle import Bundle, BundleWriter, InputSpec, NetworkSpec, Provenance
from spaces import FOUR
from tiny_onnx import tiny_logits_onnx, tiny_onnx, tiny_weight


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Make ``tmp_path/name`` with the given ONNX files (default: one model.onnx of `tiny_onnx`)."""

    def make(
        name: str = "bundle",
        *,
        width: int = 32,
        height: int = 16,
        models: dict[str, bytes] | None = None,
        precisions: dict[str, str] | None = None,
        weights: bytes | None = None,
        artefact_details: dict[str, Any] | None = None,
        **details: Any,
    ) -> Bundle:
        if models is None:
            models = {"model.onnx": tiny_onnx(width, height, tiny_weight(), **details)}
        with BundleWriter(tmp_path / name) as writer:
            for file, data in models.items():
                precision = (precisions or {}).get(file, "fp32")
                writer.add_bytes(
                    file, data, kind="onnx", precision=precision, details=artefact_details or {}
                )
            if weights is not None:
                writer.add_bytes("model.safetensors", weights, kind="weights")
            return writer.commit(
                network=NetworkSpec(name="tiny"),
                label_space=FOUR,
                input=InputSpec(width=width, height=height, mean=(0, 0, 0), std=(1, 1, 1)),
                provenance=Provenance(),
            )

    return make


@pytest.fixture
def tiny() -> Any:
    """``tiny.onnx(...)``, ``tiny.weight(seed)`` and ``tiny.labels(weight, images)``."""

    class Tiny:
        onnx = staticmethod(tiny_onnx)
        logits_onnx = staticmethod(tiny_logits_onnx)
        weight = staticmethod(tiny_weight)

        @staticmethod
        def labels(weight: np.ndarray, images: np.ndarray) -> np.ndarray:
            """The model's labels for (..., H, W, 3) images by definition, in float64."""
            scores = images.astype(np.float64) @ weight.astype(np.float64).T
            return scores.argmax(axis=-1).astype(np.uint8)

    return Tiny
