"""TensorRT parses and builds every precision of every network here, strongly typed, without a GPU.

TensorRT for RTX is what builds without a GPU or a driver: engines for the compute capabilities that
it is told. FP8 needs one that has it: 8.9, and not 8.0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from export_cases import frames_of, write_source
from roadshift.adapt import load_network
from roadshift.adapt.networks import NETWORKS
from roadshift.adapt.segmenter import Segmenter
from roadshift.export.calibration import collect
from roadshift.export.onnx import write_graph
from roadshift.export.precision import to_half
from roadshift.export.quantise import Form, layers_of, quantise, quantised_values
from roadshift.runtime.bundle import InputSpec, NetworkSpec

trt = pytest.importorskip("tensorrt_rtx")

SIZE = InputSpec(width=128, height=64, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
SPECS = {
    "fast_scnn": NetworkSpec(name="fast_scnn"),
    "deeplab_v2_vgg16": NetworkSpec(name="deeplab_v2_vgg16"),
    "deeplab_v2_resnet101": NetworkSpec(
        name="deeplab_v2_resnet101", arguments={"layers": [1, 1, 1, 1]}
    ),
    "own": NetworkSpec(name="tiny_network:build"),
}


@dataclass(frozen=True)
class Graphs:
    """A network's float32 graph, and any precision of it."""

    model: onnx.ModelProto

    def of(self, precision: str) -> onnx.ModelProto:
        if precision == "fp32":
            return self.model
        if precision in ("fp16", "bf16"):
            return to_half(self.model, "fp16" if precision == "fp16" else "bf16")
        form: Form = "int8" if precision == "int8" else "fp8"
        found = collect(self.model, quantised_values(self.model, form), frames_of(SIZE, 2))
        ranges = {name: histogram.range("percentile") for name, histogram in found.items()}
        return quantise(self.model, form, ranges, [layers_of(self.model)[0].name])


@pytest.fixture(scope="module", params=sorted(SPECS))
def graphs(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    folder = tmp_path_factory.mktemp(request.param)
    bundle = write_source(folder / "bundle", SPECS[request.param], SIZE)
    network = load_network(bundle, torch.device("cpu"))
    segmenter = Segmenter(network, SIZE).eval()
    return Graphs(write_graph(segmenter, bundle, folder / "model.onnx", with_logits=False))


class Said(trt.ILogger):  # type: ignore[misc]
    """What TensorRT complains about."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(message)


def build(model: onnx.ModelProto, capability: str) -> tuple[bytes | None, list[str]]:
    """The engine for a GPU of that compute capability, or what TensorRT says against it."""
    said = Said()
    builder = trt.Builder(said)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, said)
    if not parser.parse(model.SerializeToString()):
        return None, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    plan = builder.build_serialized_network(network, config)
    return (None if plan is None else bytes(plan)), said.errors


def test_every_network_in_the_repository_is_asked_about() -> None:
    assert set(NETWORKS) == set(SPECS) - {"own"}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_tensorrt_parses_and_builds_it(graphs: Graphs, precision: str) -> None:
    plan, errors = build(graphs.of(precision), "SM89")
    assert errors == []
    assert plan is not None
    assert len(plan) > 1000


def change_zero_points(model: onnx.ModelProto, change: Callable[[int], int]) -> onnx.ModelProto:
    for weight in model.graph.initializer:
        if weight.name.endswith(".zero_point"):
            data = bytearray(weight.raw_data)
            weight.raw_data = bytes(change(byte) for byte in data)
    return model


def test_half_beside_int8_is_taken_and_what_tensorrt_refuses_is_seen(tmp_path: Path) -> None:
    """A zero point that is not 0, and FP8 where the GPU has none: the proof above can fail."""
    bundle = write_source(tmp_path / "bundle", SPECS["own"], SIZE)
    segmenter = Segmenter(load_network(bundle, torch.device("cpu")), SIZE).eval()
    graphs = Graphs(write_graph(segmenter, bundle, tmp_path / "m.onnx", with_logits=False))
    plan, errors = build(to_half(graphs.of("int8"), "fp16"), "SM89")
    assert errors == []  # what is not quantised may be in half precision
    assert plan is not None
    plan, errors = build(change_zero_points(graphs.of("int8"), lambda _: 3), "SM89")
    assert plan is None
    assert errors
    plan, errors = build(graphs.of("fp8"), "SM80")
    assert plan is None
    assert "fp8" in " ".join(errors)
