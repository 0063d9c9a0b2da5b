"""Folds: what a graph's weights are made of, as equations and as a map that is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from roadshift.adapt.models.segmenter import Segmenter
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.networks.base import Output
from roadshift.export.onnx import write_graph
from roadshift.export.weight_origins import (
    NOT_REFITTABLE,
    Fold,
    cast_weight,
    folds_from_json,
    folds_to_json,
    read_folds,
    state_arrays,
    write_weights,
)
from roadshift.runtime.bundle import Bundle, NetworkSpec
from roadshift.runtime.errors import ParityError
from traced_cases import IMAGE, SIZE, Traced, bundle_of, draw, logits_of, traced_network


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    return traced_network("tiny_network:build", tmp_path_factory.mktemp("folds"))


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
    tiny: tuple[Bundle, SegmentationNetwork], tmp_path: Path
) -> None:
    segmenter = Segmenter(Rescaled(), SIZE).eval()
    model = write_graph(segmenter, tiny[0], tmp_path / "m.onnx", with_logits=True)
    with torch.inference_mode():
        expected = segmenter.scores(torch.from_numpy(IMAGE))[1].numpy()
    np.testing.assert_allclose(logits_of(model, IMAGE), expected, atol=1e-5)
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
