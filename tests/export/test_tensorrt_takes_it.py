"""TensorRT parses and builds every precision of every network here, strongly typed, without a GPU.

TensorRT for RTX is what builds without a GPU or a driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
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
from roadshift.export.tensorrt_build import build_plan
from roadshift.runtime.bundle import InputSpec, NetworkSpec
from roadshift.runtime.errors import EngineError
from roadshift.runtime.tensorrt_library import load_tensorrt

pytest.importorskip("tensorrt_rtx")

SIZE = InputSpec(width=128, height=64, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
SPECS = {
    "fast_scnn": NetworkSpec(name="fast_scnn"),
    "deeplab_v2_vgg16": NetworkSpec(name="deeplab_v2_vgg16"),
    "deeplab_v2_resnet101": NetworkSpec(
        name="deeplab_v2_resnet101", arguments={"layers": [1, 1, 1, 1]}
    ),
    "own": NetworkSpec(name="tiny_network:build"),
}


@dataclass(frozen=True, eq=False)
class Graphs:
    """A network's float32 graph, and any precision of it."""

    model: onnx.ModelProto

    @cache  # noqa: B019  one a module and a network
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
    return traced(request.param, tmp_path_factory.mktemp(request.param))


def traced(name: str, folder: Path) -> Graphs:
    bundle = write_source(folder / "bundle", SPECS[name], SIZE)
    segmenter = Segmenter(load_network(bundle, torch.device("cpu")), SIZE).eval()
    return Graphs(write_graph(segmenter, bundle, folder / "model.onnx", with_logits=False))


def build(model: onnx.ModelProto, precision: str) -> bytes:
    library = load_tensorrt("tensorrt_rtx")
    return build_plan(library, model.SerializeToString(), f"model-{precision}.onnx", precision)


def test_every_network_in_the_repository_is_asked_about() -> None:
    assert set(NETWORKS) == set(SPECS) - {"own"}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
def test_tensorrt_parses_and_builds_it(graphs: Graphs, precision: str) -> None:
    assert len(build(graphs.of(precision), precision)) > 1000


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    return traced("own", tmp_path_factory.mktemp("own"))


def test_bf16_is_built_as_well(own: Graphs) -> None:
    assert len(build(own.of("bf16"), "bf16")) > 1000


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_what_is_not_quantised_is_built_in_half_precision(graphs: Graphs, precision: str) -> None:
    assert len(build(to_half(graphs.of(precision), "fp16"), precision)) > 1000


def test_a_zero_point_that_is_not_zero_is_refused(own: Graphs) -> None:
    """What our graphs must not do is seen by the proof above."""
    model = onnx.ModelProto()
    model.CopyFrom(own.of("int8"))
    for weight in model.graph.initializer:
        if weight.name.endswith(".zero_point"):
            weight.raw_data = bytes(3 for _ in weight.raw_data)
    with pytest.raises(EngineError, match=r"does not take model-int8\.onnx: .*zero"):
        build(model, "int8")
