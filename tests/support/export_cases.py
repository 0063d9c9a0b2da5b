"""Set-up for the export tests: bundles of networks with drawn weights, frames, and refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from bundle_cases import write_bundle
from roadshift.adapt.networks import SegmentationNetwork, build_network
from roadshift.export.data_splits import EvaluationData
from roadshift.runtime.bundle import Bundle, InputSpec, NetworkSpec
from roadshift.runtime.bundle import open_bundle as read_bundle
from roadshift.runtime.labels import label_space
from roadshift.scenes import render_scene

SPACE = label_space("camvid11")
BGR = InputSpec(width=96, height=64, colour="bgr", mean=(104, 117, 123), std=(1.5, 1, 2))
RGB = InputSpec(width=96, height=64, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4), gamma=0.6)


def write_source(
    path: Path,
    spec: NetworkSpec,
    size: InputSpec = RGB,
    change: Callable[[SegmentationNetwork], object] = lambda _: None,
) -> Bundle:
    """A bundle of a network with drawn weights and batch-norm statistics."""
    torch.manual_seed(0)
    network = build_network(spec.name, SPACE.num_classes, **spec.arguments)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    change(network)
    path.parent.mkdir(exist_ok=True)
    return write_bundle(path, network, network=spec, label_space=SPACE, input=size)


def frames_of(size: InputSpec, count: int = 3) -> list[np.ndarray]:
    return [render_scene(seed, "dusk", size.width, size.height).image for seed in range(count)]


SCENES = EvaluationData(frames_of(RGB), "scenes")


@contextmanager
def stays_as_it_is(bundle: Bundle) -> Iterator[None]:
    """A refusal inside leaves ``bundle`` as it was, and nothing beside it."""
    yield
    assert read_bundle(bundle.path).hash == bundle.hash
    listed = {artefact.path for artefact in bundle.manifest.artefacts}
    assert {path.name for path in bundle.path.glob("*.onnx")} <= listed
    assert sorted(path.name for path in bundle.path.parent.iterdir()) == [bundle.path.name]
