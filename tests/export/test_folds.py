"""Folds: every learned weight of every network's graph is known; other weights can be put in."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from roadshift.adapt.importing import save_weights
from roadshift.adapt.networks import SegmentationNetwork, build_network
from roadshift.adapt.networks.base import Output
from roadshift.adapt.scenes import render_scene
from roadshift.adapt.segmenter import Segmenter
from roadshift.export.folds import (
    NOT_REFITTABLE,
    Fold,
    Folds,
    cast_weight,
    folds_from_json,
    folds_to_json,
    read_folds,
    state_arrays,
    write_weights,
)
from roadshift.export.onnx import write_graph
from roadshift.export.precision import to_half
from roadshift.runtime.bundle import Bundle, BundleWriter, InputSpec, NetworkSpec, Provenance
from roadshift.runtime.errors import ParityError
from roadshift.runtime.labels import label_space
from roadshift.runtime.tensorrt_library import load_tensorrt

sys.path.insert(0, str(Path(__file__).parents[1] / "adapt"))  # for "tiny_network:build"

SPACE = label_space("camvid11")
SIZE = InputSpec(width=96, height=64, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4), gamma=0.6)
NORM = ("weight", "bias", "running_mean", "running_var")
NETWORKS = {
    "tiny_network:build": {},
    "fast_scnn": {},
    "deeplab_v2_resnet101": {"layers": [1, 1, 1, 1], "multi_level": True},
    "deeplab_v2_vgg16": {},
}


def bundle_of(path: Path, spec: NetworkSpec) -> tuple[Bundle, SegmentationNetwork]:
    """As built: biases and shifts all zero, scales and variances all one, so most are equal."""
    torch.manual_seed(0)
    network = build_network(spec.name, SPACE.num_classes, **spec.arguments).eval()
    with BundleWriter(path) as writer:
        writer.add_bytes("model.safetensors", save_weights(network), kind="weights")
        bundle = writer.commit(
            network=spec, label_space=SPACE, input=SIZE, provenance=Provenance(method="test")
        )
    return bundle, network


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
    network: SegmentationNetwork
    model: onnx.ModelProto
    folds: Folds
    other: np.ndarray  # torch's logits with other weights in the network
    state: dict[str, np.ndarray]  # those weights


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return render_scene(0, "dusk", SIZE.width, SIZE.height).image[None]


@pytest.fixture(scope="module", params=list(NETWORKS))
def traced(request: Any, tmp_path_factory: pytest.TempPathFactory, image: np.ndarray) -> Traced:
    folder = tmp_path_factory.mktemp("folds")
    spec = NetworkSpec(name=request.param, arguments=NETWORKS[request.param])
    bundle, network = bundle_of(folder / "bundle", spec)
    segmenter = Segmenter(network, SIZE).eval()
    model = write_graph(segmenter, bundle, folder / "model.onnx", with_logits=True)
    folds = read_folds(model)
    assert folds is not None
    draw(network, seed=1)
    with torch.inference_mode():
        other = segmenter.scores(torch.from_numpy(image))[1].numpy()
    return Traced(network, model, folds, other, state_arrays(network))


def test_other_weights_in_the_same_graph_do_what_torch_does_with_them(
    traced: Traced, image: np.ndarray
) -> None:
    """So the map names every weight there is, also those that were equal or zero at the export."""
    model = onnx.ModelProto()
    model.CopyFrom(traced.model)
    before = logits_of(model, image)
    write_weights(model, traced.folds, traced.state, SIZE.gamma)
    found = logits_of(model, image)
    scale = np.abs(traced.other).max()
    np.testing.assert_allclose(found / scale, traced.other / scale, atol=1e-5)
    assert np.abs(before - found).max() > 0.01 * scale


def test_what_is_not_mapped_depends_on_no_weight(traced: Traced) -> None:
    """Mean, scale and shapes: the same constants, whatever the network has learned."""
    rest = [w for w in traced.model.graph.initializer if w.name not in traced.folds]
    assert {"mean", "std"} <= {w.name.rpartition("normalise.")[2] for w in rest}
    assert max(int(np.prod(w.dims)) for w in rest) < 100
    convolutions = [
        n for n in traced.model.graph.node if n.op_type in ("Conv", "BatchNormalization")
    ]
    assert convolutions
    for node in convolutions:
        assert set(node.input[1:]) <= traced.folds.keys()


def test_every_weight_that_the_network_uses_is_in_the_map(traced: Traced) -> None:
    named = set()
    for fold in traced.folds.values():
        named |= {str(fold.source), f"{fold.conv}.weight", f"{fold.conv}.bias"}
        named |= {
            f"{fold.norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")
        }
    unused = set(traced.state) - named
    assert all(key.startswith("layer5.") for key in unused)  # the auxiliary classifier is carried


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_knows_every_mapped_weight_by_its_name(traced: Traced, precision: str) -> None:
    """TensorRT for RTX, without a GPU: none of the learned weights is lost or renamed."""
    pytest.importorskip("tensorrt_rtx")
    library = load_tensorrt("tensorrt_rtx")
    trt = library.module
    model = traced.model if precision == "fp32" else to_half(traced.model, "fp16")
    graph = model.SerializeToString()
    logger, said = library.listen()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(graph), said
    folds = read_folds(model)
    assert folds == traced.folds
    assert [name for name in traced.folds if not network.mark_weights_refittable(name)] == []


# ---- the values themselves ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, SegmentationNetwork]:
    return bundle_of(tmp_path_factory.mktemp("tiny") / "b", NetworkSpec(name="tiny_network:build"))


def test_a_graph_does_not_depend_on_the_weights_that_it_is_made_from(
    tiny: tuple[Bundle, SegmentationNetwork], tmp_path: Path
) -> None:
    """Written into one graph, the weights of another give that graph, byte for byte."""
    bundle, network = tiny
    segmenter = Segmenter(network, SIZE).eval()
    plain = write_graph(segmenter, bundle, tmp_path / "plain.onnx", with_logits=False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    draw(network, seed=2)
    fresh = write_graph(segmenter, bundle, tmp_path / "drawn.onnx", with_logits=False)
    folds = read_folds(plain)
    assert folds is not None
    write_weights(plain, folds, state_arrays(network), SIZE.gamma)
    assert plain.SerializeToString() == fresh.SerializeToString()
    network.load_state_dict(before)


def test_tracing_leaves_the_network_as_it_was(
    tiny: tuple[Bundle, SegmentationNetwork], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, network = tiny
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(KeyboardInterrupt):
        write_graph(Segmenter(network, SIZE), bundle, tmp_path / "m.onnx", with_logits=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


class Rescaled(SegmentationNetwork):
    """A classifier whose weight is computed from what was learned."""

    align_corners = False
    stride = 1
    num_classes = 11

    def __init__(self) -> None:
        super().__init__()
        self.raw = torch.nn.Parameter(torch.randn(11, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> Output:
        logits = torch.nn.functional.conv2d(images, torch.tanh(self.raw))
        return Output(logits, logits)


def test_a_weight_that_is_computed_makes_a_graph_that_cannot_be_refitted_but_is_right(
    tiny: tuple[Bundle, SegmentationNetwork], tmp_path: Path, image: np.ndarray
) -> None:
    segmenter = Segmenter(Rescaled(), SIZE).eval()
    model = write_graph(segmenter, tiny[0], tmp_path / "m.onnx", with_logits=True)
    with torch.inference_mode():
        expected = segmenter.scores(torch.from_numpy(image))[1].numpy()
    np.testing.assert_allclose(logits_of(model, image), expected, atol=1e-5)
    assert read_folds(model) is None
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told[NOT_REFITTABLE].startswith("raw cannot be found in its graph")


@pytest.mark.parametrize(
    ("fold", "expected"),
    [
        (Fold("copy", source="c.bias"), [1.0, 2.0]),
        (Fold("transpose", source="m"), [[1.0, 3.0], [2.0, 4.0]]),
        (Fold("weight", conv="c", norm="n", eps=1.0, axis=0), [[[[3.0]]], [[[10.0]]]]),
        (Fold("bias", conv="c", norm="n", eps=1.0), [1.5 * (1 - 4) + 7, 2.5 * (2 - 5) + 8]),
        (Fold("gamma"), 0.6),
    ],
    ids=lambda value: value.how if isinstance(value, Fold) else "",
)
def test_folds_are_the_equations(fold: Fold, expected: Any) -> None:
    state = {
        "c.weight": np.array([2.0, 4.0], np.float32).reshape(2, 1, 1, 1),
        "c.bias": np.array([1.0, 2.0], np.float32),
        "m": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32),
        "n.weight": np.array([3.0, 5.0], np.float32),
        "n.bias": np.array([7.0, 8.0], np.float32),
        "n.running_mean": np.array([4.0, 5.0], np.float32),
        "n.running_var": np.array([3.0, 3.0], np.float32),
    }
    value = fold.value(state, 0.6)
    assert value.dtype == np.float64
    np.testing.assert_allclose(value, expected)


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    state = {"a": np.array([1e6, 1.0], np.float32)}
    fold = Fold("copy", source="a")
    with pytest.raises(ParityError, match=r"'w' reaches 1e\+06, which float16"):
        cast_weight("w", fold, np.zeros(2, np.float16), state, 1.0)
    with pytest.raises(ParityError, match=r"'w' is \(3,\) in the graph and \(2,\) in the network"):
        cast_weight("w", fold, np.zeros(3, np.float32), state, 1.0)


def test_folds_survive_the_manifest() -> None:
    folds = {
        "a": Fold("weight", conv="c", norm="n", eps=1e-5, axis=0),
        "b": Fold("copy", source="b"),
    }
    document = json.loads(json.dumps(folds_to_json(folds)))
    assert document["b"] == {"how": "copy", "source": "b"}
    assert folds_from_json(document) == folds


def test_folds_that_do_not_fit_their_graph_are_no_folds(traced: Traced) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(traced.model)
    name = next(iter(traced.folds))
    kept = [w for w in model.graph.initializer if w.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    assert read_folds(model) is None


def test_half_a_graph_takes_half_the_bits(traced: Traced) -> None:
    """Weights are written in the type that the graph has them in."""
    name, fold = next((n, f) for n, f in traced.folds.items() if f.how != "gamma")
    model = onnx.ModelProto()
    (old,) = (w for w in traced.model.graph.initializer if w.name == name)
    half = numpy_helper.to_array(old).astype(np.float16)
    model.graph.initializer.append(numpy_helper.from_array(half, name))
    write_weights(model, {name: fold}, traced.state, 1.0)
    found = numpy_helper.to_array(model.graph.initializer[0])
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, fold.value(traced.state, 1.0), rtol=1e-3, atol=1e-6)
