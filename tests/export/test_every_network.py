"""Every network here: its graph's weights are all known, and TensorRT builds every precision of it.

TensorRT for RTX is what parses and builds without a GPU or a driver.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_cases import frames_of
from roadshift.adapt.networks import NETWORKS as KNOWN
from roadshift.adapt.networks import espnetv2
from roadshift.export.calibration import collect
from roadshift.export.plan_maker import _folds
from roadshift.export.precision import to_half
from roadshift.export.quantise import Form, layers_of, quantise, quantised_values
from roadshift.export.refit import kept_from_refit
from roadshift.export.weight_origins import read_folds, write_weights
from roadshift.runtime.bundle import NetworkSpec
from roadshift.runtime.engines.onnx.skeleton import skeleton
from roadshift.runtime.engines.tensorrt_build import build_plan
from roadshift.runtime.engines.tensorrt_library import load_tensorrt
from roadshift.runtime.errors import EngineError
from roadshift.scenes import render_scene
from traced_cases import (
    IMAGE,
    NETWORKS,
    SIZE,
    Segmenter,
    Traced,
    bundle_of,
    draw,
    logits_of,
    traced_network,
    write_graph,
)

OWN = "tiny_network:build"
# Batch norm over joined branches is no part of one convolution, so their weights are not mapped.
NOT_REFITTABLE = {"espnetv2"}
STATISTICS = ("weight", "bias", "running_mean", "running_var")
only_own = pytest.mark.parametrize("traced", [OWN], indirect=True)


@pytest.fixture(scope="module", params=list(NETWORKS))
def traced(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    return traced_network(request.param, tmp_path_factory.mktemp("traced"))


def test_every_network_in_the_repository_is_asked_about() -> None:
    alike = {
        *("pidnet_m", "pidnet_l", "ddrnet23_slim", "ddrnet23"),  # of pidnet_s's blocks
        *(f"segformer_b{size}" for size in range(1, 6)),  # b0's code, wider and deeper
    }
    assert set(KNOWN) == (set(NETWORKS) - {OWN}) | NOT_REFITTABLE | alike


@pytest.mark.parametrize("name", sorted(NOT_REFITTABLE))
def test_a_graph_that_cannot_be_refitted_says_so_and_is_right(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At odd sides, with which every resize is exercised."""
    monkeypatch.setattr(espnetv2, "_PYRAMID", (1.5, 1.0, 0.1))  # larger, equal and smaller maps
    size = SIZE.model_copy(update={"width": 71, "height": 45})
    bundle, network = bundle_of(tmp_path / "bundle", NetworkSpec(name=name), size)
    draw(network, seed=1)
    segmenter = Segmenter(network, size).eval()
    model = write_graph(segmenter, bundle, tmp_path / "model.onnx", with_logits=True)
    assert read_folds(model) is None
    assert "roadshift.not_refittable" in {entry.key for entry in model.metadata_props}
    image = render_scene(0, "dusk", size.width, size.height).image[None]
    with torch.inference_mode():
        expected = segmenter.scores(torch.from_numpy(image))[1].numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits_of(model, image) / scale, expected / scale, atol=1e-4)


# ---- its weights ---------------------------------------------------------------------------------


def test_other_weights_in_the_same_graph_do_what_torch_does_with_them(traced: Traced) -> None:
    """So the map names every weight there is, also those that were equal or zero at the export."""
    model = onnx.ModelProto()
    model.CopyFrom(traced.model)
    before = logits_of(model, IMAGE)
    write_weights(model, traced.folds, traced.state, SIZE.gamma)
    found = logits_of(model, IMAGE)
    scale = np.abs(traced.other).max()
    # torch's own float32 lies up to 2e-5 from its float64 here; a weight that is lost, above 1e-2
    np.testing.assert_allclose(found / scale, traced.other / scale, atol=1e-4)
    assert np.abs(before - found).max() > 0.01 * scale
    assert skeleton(model.SerializeToString(), None) == skeleton(
        traced.model.SerializeToString(), None
    )


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
        named |= {f"{fold.norm}.{part}" for part in STATISTICS}
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
    lost = sorted(name for name in traced.folds if not network.mark_weights_refittable(name))
    assert lost == kept_from_refit(model, traced.folds)
    assert {name.rpartition(".")[2] for name in lost} <= set(STATISTICS)
    assert any(".spp." in name or ".S5_5.bn." in name for name in lost) == bool(lost)


def test_a_plan_of_weights_that_tensorrt_keeps_is_not_built_refittable(traced: Traced) -> None:
    graph = traced.model.SerializeToString()
    if kept_from_refit(traced.model, traced.folds):
        with pytest.raises(EngineError, match=r"TensorRT keeps .* for itself, of batch norm"):
            _folds(graph, "model.onnx")
    else:
        assert _folds(graph, "model.onnx") == traced.folds


# ---- every precision -----------------------------------------------------------------------------


class Graphs:
    """A network's float32 graph, with drawn weights and labels alone, and any precision of it."""

    def __init__(self, traced: Traced) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(traced.model)
        write_weights(self.model, traced.folds, traced.state, SIZE.gamma)
        (logits,) = (output for output in self.model.graph.output if output.name == "logits")
        self.model.graph.output.remove(logits)
        self._made: dict[str, onnx.ModelProto] = {"fp32": self.model}

    def of(self, precision: str) -> onnx.ModelProto:
        if precision not in self._made:
            self._made[precision] = self._make(precision)
        return self._made[precision]

    def _make(self, precision: str) -> onnx.ModelProto:
        if precision in ("fp16", "bf16"):
            return to_half(self.model, "fp16" if precision == "fp16" else "bf16")
        form: Form = "int8" if precision == "int8" else "fp8"
        found = collect(self.model, quantised_values(self.model, form), frames_of(SIZE, 2))
        ranges = {name: histogram.range("percentile") for name, histogram in found.items()}
        return quantise(self.model, form, ranges, [layers_of(self.model)[0].name])


@pytest.fixture(scope="module")
def graphs(traced: Traced) -> Graphs:
    pytest.importorskip("tensorrt_rtx")
    return Graphs(traced)


def build(model: onnx.ModelProto, precision: str) -> bytes:
    library = load_tensorrt("tensorrt_rtx")
    return build_plan(library, model.SerializeToString(), f"model-{precision}.onnx", precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
def test_tensorrt_parses_and_builds_it(graphs: Graphs, precision: str) -> None:
    assert len(build(graphs.of(precision), precision)) > 1000


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_what_is_not_quantised_is_built_in_half_precision(graphs: Graphs, precision: str) -> None:
    assert len(build(to_half(graphs.of(precision), "fp16"), precision)) > 1000


@only_own
def test_bf16_is_built_as_well(graphs: Graphs) -> None:
    assert len(build(graphs.of("bf16"), "bf16")) > 1000


@only_own
def test_a_zero_point_that_is_not_zero_is_refused(graphs: Graphs) -> None:
    """The proof above sees a graph that does what ours must not."""
    model = onnx.ModelProto()
    model.CopyFrom(graphs.of("int8"))
    for weight in model.graph.initializer:
        if weight.name.endswith(".zero_point"):
            weight.raw_data = bytes(3 for _ in weight.raw_data)
    with pytest.raises(EngineError, match=r"does not take model-int8\.onnx: .*zero"):
        build(model, "int8")
