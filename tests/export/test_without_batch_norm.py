"""Networks of layer and group norms: exported, compared with torch, and run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_cases import write_bundle
from roadshift.adapt.networks import build_network
from roadshift.export.api import export_bundle
from roadshift.runtime.bundle import InputSpec, NetworkSpec
from roadshift.runtime.engines import open_engine
from roadshift.runtime.labels import label_space
from roadshift.scenes import render_scene

SPACE = label_space("camvid11")
SIZE = InputSpec(width=96, height=64, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
NETWORKS = [
    NetworkSpec(
        name="segformer_b0",
        arguments={"widths": [8, 16, 20, 32], "depths": [1, 1, 1, 1], "decoder_width": 16},
    ),
    NetworkSpec(name="no_batch_norm:transformer"),
    NetworkSpec(name="no_batch_norm:group_norm"),
]


@pytest.mark.parametrize("spec", NETWORKS, ids=lambda spec: spec.name)
def test_the_engine_says_what_torch_says(spec: NetworkSpec, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(spec.name, SPACE.num_classes, **spec.arguments)
    bundle = write_bundle(tmp_path / "bundle", network, network=spec, label_space=SPACE, input=SIZE)
    bundle = export_bundle(bundle)
    image = render_scene(0, "dusk", SIZE.width, SIZE.height).image
    said = {}
    for backend in ("torch", "onnxruntime"):
        with open_engine(bundle, backend=backend, device="cpu") as engine:
            said[backend] = engine.segment(image)
    assert len(np.unique(said["torch"])) > 1
    assert np.mean(said["torch"] == said["onnxruntime"]) > 0.999
