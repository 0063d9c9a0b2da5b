"""Networks traced to graphs with their folds, and other weights to put into them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
import torch
from bundle_cases import write_bundle
from roadshift.adapt.models.segmenter import Segmenter
from roadshift.adapt.networks import (
    SegmentationNetwork,
    bisenetv2,
    build_network,
    deeplab_v2,
    deeplab_v2_vgg16,
    deeplab_v3plus,
    espnetv2,
    fast_scnn,
    pidnet,
)
from roadshift.export.onnx import write_graph
from roadshift.export.weight_origins import Folds, read_folds, state_arrays
from roadshift.runtime.bundle import Bundle, InputSpec, NetworkSpec
from roadshift.runtime.labels import label_space
from roadshift.scenes import render_scene
from torch import nn

SPACE = label_space("camvid11")
SIZE = InputSpec(width=96, height=64, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4), gamma=0.6)
IMAGE = render_scene(0, "dusk", SIZE.width, SIZE.height).image[None]
NETWORKS = {
    "tiny_network:build": {},
    "fast_scnn": {},
    "deeplab_v2_resnet101": {"layers": [1, 1, 1, 1], "multi_level": True},
    "deeplab_v2_vgg16": {},
    "pidnet_s": {},
    "bisenetv2": {},
    "deeplab_v3plus": {"backbone": "mobilenet_v2"},
    "segformer_b0": {"widths": [8, 16, 20, 32], "depths": [1] * 4, "decoder_width": 24},
}


# VGG-16 and ResNet in an eighth of their channels, PIDNet-S in a quarter with a block a stage; one
# of the blocks that only repeat in Fast-SCNN, BiSeNetV2 and MobileNetV2; and ESPNetv2 with one of
# its equal units and two branches: graphs of every kind of layer, without a minute for widths and
# repetitions.
NARROW = tuple(block._replace(width=block.width // 8) for block in deeplab_v2_vgg16.BLOCKS)
SMALL = pidnet._Size(8, 1, 1, 24, 32, is_large=False)
INVERTED = tuple(
    (expansion, width, blocks if width == 24 else 1, stride)
    for expansion, width, blocks, stride in deeplab_v3plus._INVERTED
    if width != 96
)
_stage, _classifier = deeplab_v2._stage, deeplab_v2.DilatedClassifier
_bottlenecks, _gather_and_expand = fast_scnn._bottlenecks, bisenetv2._gather_and_expand


def few_bottlenecks(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return list(_bottlenecks(inputs, outputs, stride))[: 2 if outputs == 64 else 1]


def few_expanding(inputs: int, outputs: int, _: int) -> list[nn.Module]:
    return list(_gather_and_expand(inputs, outputs, 2 if outputs == 32 else 1))


def narrow_stage(inputs: int, planes: int, *rest: int, **how: int) -> nn.Module:
    return _stage(inputs if inputs == 64 else inputs // 8, planes // 8, *rest, **how)


def narrow_classifier(channels: int, *rest: int) -> nn.Module:
    return _classifier(channels // 8, *rest)


@contextmanager
def fewer_layers() -> Iterator[None]:
    """Networks that are built in here have what is said above."""
    with (
        patch.object(deeplab_v2, "_stage", narrow_stage),
        patch.object(deeplab_v2, "DilatedClassifier", narrow_classifier),
        patch.object(deeplab_v2_vgg16, "BLOCKS", NARROW),
        patch.object(pidnet, "_Size", lambda *_, **__: SMALL),
        patch.object(deeplab_v3plus, "_INVERTED", INVERTED),
        patch.object(fast_scnn, "_bottlenecks", few_bottlenecks),
        patch.object(bisenetv2, "_gather_and_expand", few_expanding),
        patch.object(espnetv2, "_UNITS", (0, 1)),
        patch.object(espnetv2, "_BRANCHES", 2),
    ):
        yield


def bundle_of(
    path: Path, spec: NetworkSpec, size: InputSpec = SIZE
) -> tuple[Bundle, SegmentationNetwork]:
    """As built: biases and shifts all zero, scales and variances all one, so most are equal."""
    torch.manual_seed(0)
    with fewer_layers():
        network = build_network(spec.name, SPACE.num_classes, **spec.arguments).eval()
    return write_bundle(path, network, network=spec, label_space=SPACE, input=size), network


def draw(network: SegmentationNetwork, seed: int) -> None:
    """Other weights and statistics, as an adaptation leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.is_floating_point():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))


def logits_of(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    logits: np.ndarray = session.run(["logits"], {"image": image})[0]
    return logits


@dataclass
class Traced:
    """A network and its graph, whose folds are known."""

    network: SegmentationNetwork
    model: onnx.ModelProto
    folds: Folds
    other: np.ndarray  # torch's logits with other weights in the network
    state: dict[str, np.ndarray]  # those weights


def traced_network(name: str, folder: Path) -> Traced:
    """One of `NETWORKS` as built, with its logits, and what torch makes of `IMAGE` later on."""
    spec = NetworkSpec(name=name, arguments=NETWORKS[name])
    bundle, network = bundle_of(folder / "bundle", spec)
    segmenter = Segmenter(network, SIZE).eval()
    model = write_graph(segmenter, bundle, folder / "model.onnx", with_logits=True)
    folds = read_folds(model)
    assert folds is not None
    draw(network, seed=1)
    with torch.inference_mode():
        other = segmenter.scores(torch.from_numpy(IMAGE))[1].numpy()
    return Traced(network, model, folds, other, state_arrays(network))
