"""Tests that need a CUDA GPU: mixed precision, the memory budget, ONNX Runtime on CUDA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from roadshift.adapt import RunOptions, TorchEngine, adapt_bundle, load_network, resolve_config
from roadshift.adapt import train_bundle as train
from roadshift.adapt.models.loading import IMAGENET_INPUT
from roadshift.adapt.training.precision_benchmark import (
    MEASURED_FROM,
    PrecisionTrial,
    choose_precision,
)
from roadshift.export.artefacts import export_bundle
from roadshift.runtime.bench import BenchSettings, bench_bundle
from roadshift.runtime.bundle import Bundle, NetworkSpec, open_bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import EngineError
from roadshift.runtime.labels import label_space
from roadshift.runtime.labels.metrics import label_agreement
from roadshift.scenes import render_dataset, render_scene

pytestmark = pytest.mark.gpu

WIDTH, HEIGHT = 256, 128


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A source model trained on the GPU, mixed precision chosen by itself."""
    folder = tmp_path_factory.mktemp("gpu")
    render_dataset(folder / "day", "daylight", 16, seed=1, width=WIDTH, height=HEIGHT)
    return train(
        folder / "day/images",
        folder / "day/labels",
        label_space("cityscapes19"),
        NetworkSpec(name="fast_scnn"),
        IMAGENET_INPUT.model_copy(update={"width": WIDTH, "height": HEIGHT}),
        resolve_config("supervised", assignments=["training.steps=40"]),
        RunOptions(folder / "source", device="cuda"),
    )


def adapt(source: Bundle, out: Path, *assignments: str, **options: object) -> Bundle:
    frames = out.with_name("frames")
    if not frames.exists():
        render_dataset(frames, "dusk", 8, seed=9, width=WIDTH, height=HEIGHT)
    settings = ["training.steps=4", *assignments]
    job = RunOptions(out, device="cuda", **options)  # type: ignore[arg-type]
    return adapt_bundle(
        source, [frames / "images"], resolve_config("iapc", assignments=settings), job
    )


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_iapc_adapts_in_every_precision(source: Bundle, tmp_path: Path, amp: str) -> None:
    adapted = adapt(source, tmp_path / "adapted", f"training.amp={amp}")
    outcome = adapted.manifest.provenance.configuration["outcome"]
    assert isinstance(outcome, dict)
    assert outcome["precision"] == ("fp32" if amp == "off" else amp)
    assert outcome["steps"] == 4
    before, after = (load_network(b, torch.device("cpu")).state_dict() for b in (source, adapted))
    assert all(bool(torch.isfinite(value).all()) for value in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_auto_measures_before_it_chooses(source: Bundle, tmp_path: Path) -> None:
    adapted = adapt(source, tmp_path / "adapted", f"training.steps={MEASURED_FROM}")
    outcome = adapted.manifest.provenance.configuration["outcome"]
    assert isinstance(outcome, dict)
    found = outcome["precision_measured"]
    assert isinstance(found, dict)
    assert list(found) in (["fp32", "bf16", "fp16"], ["fp32", "fp16"])
    measured = {name: PrecisionTrial(**values) for name, values in found.items()}  # type: ignore[arg-type]
    assert all(values.seconds for values in measured.values())
    assert outcome["precision"] == choose_precision(measured)  # type: ignore[arg-type]


def test_memory_budget_lowers_the_micro_batch(source: Bundle, tmp_path: Path) -> None:
    whole = adapt(source, tmp_path / "whole")
    outcome = whole.manifest.provenance.configuration["outcome"]
    assert isinstance(outcome, dict)
    budget = int(float(str(outcome["peak_memory_mib"])) * 2**20 * 0.6)
    small = adapt(source, tmp_path / "small", memory_budget_bytes=budget)
    lowered = small.manifest.provenance.configuration["outcome"]
    assert isinstance(lowered, dict)
    assert int(str(lowered["micro_batch"])) < int(str(outcome["micro_batch"]))


def test_onnx_runtime_on_cuda_agrees_with_torch_on_cuda(source: Bundle) -> None:
    export_bundle(source, ("onnx",))
    device = torch.device("cuda")
    torch_engine = TorchEngine(
        load_network(source, device), source.label_space, source.manifest.input, device=device
    )
    with open_engine(source.path, backend="onnxruntime", device="cuda") as engine:
        assert engine.device == "cuda"
        for seed in range(4):
            image = render_scene(seed, "daylight", WIDTH, HEIGHT).image
            agreement = label_agreement(engine.segment(image), torch_engine.segment(image))
            assert agreement > 99.5
        frames = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 3
        assert len(engine.segment_batch(frames)) == 3


def test_onnx_runtime_runs_as_one_cuda_graph_and_says_what_each_stage_took(source: Bundle) -> None:
    """Frames that change come back as their own labels: a graph that replays the first is wrong."""
    export_bundle(open_bundle(source.path), ("onnx",))
    images = [render_scene(seed, "daylight", WIDTH, HEIGHT).image for seed in range(6)]
    with (
        open_engine(source.path, backend="onnxruntime", device="cuda") as cuda,
        open_engine(source.path, backend="onnxruntime", device="cpu") as cpu,
    ):
        assert "as one CUDA graph" in cuda.reason
        for image in images:
            assert label_agreement(cuda.segment(image), cpu.segment(image)) > 99.5
        assert cuda.stage_ms is not None
        assert all(0 < cuda.stage_ms[stage] < 1000 for stage in ("h2d", "gpu", "d2h"))


def test_onnx_runtime_gives_logits_on_cuda_and_a_kernel_the_same_labels(source: Bundle) -> None:
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:
        pytest.skip(str(error).splitlines()[0])
    image = render_scene(7, "daylight", WIDTH, HEIGHT).image
    export_bundle(open_bundle(source.path), ("onnx",), argmax="graph")
    with open_engine(source.path, backend="onnxruntime", device="cuda") as engine:
        expected = engine.segment(image)
    exported = export_bundle(open_bundle(source.path), ("onnx",), argmax="runtime")
    assert exported["artefacts"][0]["outputs"] == ["logits"]
    with open_engine(source.path, backend="onnxruntime", device="cuda") as engine:
        assert label_agreement(engine.segment(image), expected) > 99.9
        assert "made on the CPU" not in engine.reason  # the kernel compiled and ran


def test_onnx_runtimes_tensorrt_agrees_or_says_what_is_missing(source: Bundle) -> None:
    export_bundle(open_bundle(source.path), ("onnx",), argmax="graph")
    image = render_scene(8, "daylight", WIDTH, HEIGHT).image
    try:
        engine = open_engine(source.path, backend="onnxruntime-tensorrt")
    except EngineError as error:
        pytest.skip(str(error))
    with engine, open_engine(source.path, backend="onnxruntime", device="cpu") as cpu:
        assert engine.device == "cuda"
        assert label_agreement(engine.segment(image), cpu.segment(image)) > 99.5


def test_a_bench_on_the_gpu_has_stages_memory_and_the_gpu_s_state(source: Bundle) -> None:
    export_bundle(open_bundle(source.path), ("onnx",))
    settings = BenchSettings(
        duration_s=3.0, rounds=1, device="cuda", backends=("onnxruntime", "torch", "torch-fp16")
    )
    rows = bench_bundle(source.path, settings)
    assert [(row["backend"], row["error"]) for row in rows] == [
        ("onnxruntime", None),
        ("torch", None),
        ("torch-fp16", None),
    ]
    for row in rows:
        inside = {"h2d", "gpu", "d2h", "host"}
        assert set(row["stages_ms"]) == {"preprocess", *inside, "postprocess"}
        assert sum(row["stages_ms"].values()) == pytest.approx(row["mean_ms"])
        assert row["machine"]["source"] == "nvml"
        assert row["machine"]["clock_mhz"] > 0
        assert row["label_agreement"] > 99
        assert row["energy_mj"] is None or row["energy_mj"] > 0
        assert row["gpu_mib"] is None or row["gpu_mib"] >= 0


def test_torch_keeps_float32_and_leaves_the_setting_as_it_was(source: Bundle) -> None:
    before = torch.backends.cudnn.allow_tf32
    frame = render_scene(5, "daylight", WIDTH, HEIGHT).image
    with (
        open_engine(source.path, backend="torch", device="cuda") as gpu,
        open_engine(source.path, backend="torch", device="cpu") as cpu,
    ):
        assert label_agreement(gpu.segment(frame), cpu.segment(frame)) > 99.9
    assert torch.backends.cudnn.allow_tf32 is before
