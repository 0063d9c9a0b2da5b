"""The TensorRT engine: labels, order of work, release, and a sentence for all that can be wrong.

CUDA and TensorRT are stand-ins that compute in host memory; what only a GPU shows is in tests/gpu.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import Driver, FakeCudart, use_driver
from fake_tensorrt import FakeTensorRT, plan_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from roadshift.runtime.bench.targets import bench_targets
from roadshift.runtime.bundle import Bundle, extend_bundle, open_bundle
from roadshift.runtime.engines import cuda as cuda_module
from roadshift.runtime.engines import open_engine, tensorrt_engine, tensorrt_library
from roadshift.runtime.engines.tensorrt_library import load_tensorrt
from roadshift.runtime.engines.upsample import upsample_argmax
from roadshift.runtime.errors import (
    BundleError,
    EngineError,
    MissingDependencyError,
    RoadshiftError,
)

MakeBundle = Callable[..., Bundle]
HERE = {
    "flavour": "tensorrt",
    "version": "10.16.1",
    "gpu": "NVIDIA Test",
    "compute_capability": "8.7",
    "driver": "CUDA 12.8",
}


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@dataclass
class Machine:
    cudart: FakeCudart
    trt: FakeTensorRT


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A GPU, a driver and TensorRT 10.16.1."""
    cudart = FakeCudart()
    trt = FakeTensorRT(cudart)
    use_driver(monkeypatch, Driver())
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(cuda_module, "load_cudart", lambda: cudart)
    return Machine(cudart, trt)


@pytest.fixture
def add_plan(make_bundle: MakeBundle, tiny: Any) -> Callable[..., Bundle]:
    """A bundle with model.onnx and model-fp16.plan of the same weights, made for this machine."""

    def add(plan: bytes | None = None, *, weights: bytes | None = None, **details: Any) -> Bundle:
        bundle = make_bundle(weights=weights)
        with extend_bundle(bundle) as writer:
            writer.add_bytes(
                "model-fp16.plan",
                plan or plan_bytes(tiny.weight()),
                kind="tensorrt",
                precision="fp16",
                details={**HERE, **details},
            )
            return writer.commit()

    return add


# ---- what it does -------------------------------------------------------------------------------


def test_labels_are_those_of_the_plan(
    machine: Machine, add_plan: Callable[..., Bundle], tiny: Any
) -> None:
    batch = images(3, 16, 32)
    with open_engine(add_plan(), backend="tensorrt") as engine:
        labels = engine.infer(batch)
        np.testing.assert_array_equal(labels, tiny.labels(tiny.weight(), batch))
        kept = labels.copy()
        engine.infer(images(1, 16, 32, seed=5))
        np.testing.assert_array_equal(labels, kept)
        assert engine.describe()["cuda_graph"] is True
        assert (engine.backend, engine.device, engine.precision) == ("tensorrt", "cuda", "fp16")
        assert "tensorrt 10.16.1 runs model-fp16.plan (fp16) on NVIDIA Test" in engine.reason
    assert machine.cudart.leaked == {}


class HostKernel:
    """`UpsampleKernel` on the fake device: launched on the stream, it is the CPU's function."""

    def __init__(self, cuda: Any, logits: Any, size: Any, align_corners: bool) -> None:
        self.cuda, self.logits, self.size, self.align = cuda, logits, size, align_corners

    def launch(self, logits_at: int, labels_at: int) -> None:
        def work() -> None:
            logits = on_device(np.float32, self.logits, logits_at)[0]
            labels = upsample_argmax(logits, self.size[1], self.size[0], self.align)
            on_device(np.uint8, self.size, labels_at)[...] = labels

        self.cuda._cudart.run(work)


def on_device(dtype: Any, shape: tuple[int, ...], address: int) -> np.ndarray:
    block = (ctypes.c_uint8 * (int(np.prod(shape)) * np.dtype(dtype).itemsize)).from_address(
        address
    )
    return np.frombuffer(block, np.uint8).view(dtype).reshape(shape)


@pytest.mark.parametrize("where", ["kernel", "host"])
def test_labels_are_made_of_logits_on_the_gpu_or_with_a_word_on_the_cpu(
    machine: Machine,
    add_plan: Callable[..., Bundle],
    tiny: Any,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    def refuses(*_: Any) -> None:
        raise MissingDependencyError("no NVRTC to compile a kernel with")

    monkeypatch.setattr(
        tensorrt_engine, "UpsampleKernel", HostKernel if where == "kernel" else refuses
    )
    plan = plan_bytes(tiny.weight(), output="logits")
    bundle = add_plan(plan, argmax="runtime", align_corners=True)
    batch = images(2, 16, 32)
    with open_engine(bundle, backend="tensorrt") as engine:
        said = "labels made on the CPU (no NVRTC to compile a kernel with)"
        assert (said in engine.reason) == (where == "host")
        np.testing.assert_array_equal(engine.infer(batch), tiny.labels(tiny.weight(), batch))
        assert engine.describe()["cuda_graph"] is True
    assert machine.cudart.leaked == {}


def test_an_output_that_nobody_asks_for_still_has_its_place(
    machine: Machine, add_plan: Callable[..., Bundle], tiny: Any
) -> None:
    plan = plan_bytes(tiny.weight(), more={"logits": (1, 4, 4, 8)})
    frame = images(16, 32)
    with open_engine(add_plan(plan), backend="tensorrt") as engine:
        np.testing.assert_array_equal(engine.segment(frame), tiny.labels(tiny.weight(), frame))
        assert machine.cudart.calls.count("cudaMalloc") == 3


def test_the_graph_is_captured_once_after_a_first_run_and_launched_for_each_frame(
    machine: Machine, add_plan: Callable[..., Bundle]
) -> None:
    with open_engine(add_plan(), backend="tensorrt") as engine:
        engine.infer(images(2, 16, 32))
        engine.infer(images(1, 16, 32))
    calls = machine.cudart.calls
    assert machine.trt.calls == ["Runtime", "deserialize", *["execute_async_v3"] * 2]
    assert calls.count("cudaStreamBeginCapture") == 1
    assert calls.count("cudaGraphLaunch") == 3
    assert calls.index("cudaStreamSynchronize") < calls.index("cudaStreamBeginCapture")


def test_a_frame_goes_in_runs_and_comes_out_with_the_clock_between(
    machine: Machine, add_plan: Callable[..., Bundle]
) -> None:
    with open_engine(add_plan(), backend="tensorrt") as engine:
        assert engine.stage_ms is None
        before = len(machine.cudart.calls)
        engine.infer(images(1, 16, 32))
        assert machine.cudart.calls[before:] == [
            *("cudaEventRecord", "cudaMemcpyAsync", "cudaEventRecord", "cudaGraphLaunch"),
            *("cudaEventRecord", "cudaMemcpyAsync", "cudaEventRecord", "cudaStreamSynchronize"),
            *["cudaEventElapsedTime"] * 3,
        ]
        assert engine.stage_ms == {"h2d": 1.0, "gpu": 1.0, "d2h": 1.0}
        engine.infer(images(4, 16, 32))
        assert engine.stage_ms == {"h2d": 4.0, "gpu": 4.0, "d2h": 4.0}


def test_a_plan_that_cannot_be_captured_runs_kernel_by_kernel(
    machine: Machine, add_plan: Callable[..., Bundle], tiny: Any
) -> None:
    frame = images(16, 32)
    bundle = add_plan(plan_bytes(tiny.weight(), capturable=False))
    with open_engine(bundle, backend="tensorrt") as engine:
        np.testing.assert_array_equal(engine.segment(frame), tiny.labels(tiny.weight(), frame))
        assert engine.describe()["cuda_graph"] is False
        assert "kernel by kernel" in engine.reason
    assert machine.cudart.leaked == {}


def test_a_closed_engine_says_so(machine: Machine, add_plan: Callable[..., Bundle]) -> None:
    engine = open_engine(add_plan(), backend="tensorrt")
    engine.close()
    engine.close()
    assert machine.cudart.leaked == {}
    with pytest.raises(EngineError, match="was closed"):
        engine.infer(images(1, 16, 32))


@pytest.mark.parametrize("broken", ["cudaMalloc", "cudaHostAlloc", "cudaEventCreate"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_failure_on_the_way_leaves_nothing_behind(
    machine: Machine, add_plan: Callable[..., Bundle], broken: str, call: int
) -> None:
    machine.cudart.fail = {broken: call}
    with pytest.raises(EngineError, match=f"CUDA refused {broken}"):
        open_engine(add_plan(), backend="tensorrt")
    assert machine.cudart.leaked == {}


def test_no_memory_for_a_context_is_a_sentence_and_leaves_nothing_behind(
    machine: Machine, add_plan: Callable[..., Bundle], tiny: Any
) -> None:
    with pytest.raises(EngineError, match=r"TensorRT cannot get memory for .*model-fp16.plan"):
        open_engine(add_plan(plan_bytes(tiny.weight(), no_memory=True)), backend="tensorrt")
    assert machine.cudart.leaked == {}


def test_a_plan_that_tensorrt_refuses_gives_its_own_words(
    machine: Machine, add_plan: Callable[..., Bundle], tiny: Any
) -> None:
    bundle = add_plan(plan_bytes(tiny.weight(), version="9"))
    with pytest.raises(EngineError, match=r"not compatible with this version.*build it again"):
        open_engine(bundle, backend="tensorrt")
    assert machine.cudart.leaked == {}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"size": (64, 16)}, r"image UINT8 \(1, 16, 64, 3\)"),
        ({"output": "scores"}, "to labels"),
        ({"more": {"second": (1, 2)}, "output": "classes"}, "second"),
    ],
)
@pytest.mark.usefixtures("machine")
def test_a_plan_of_another_contract_is_refused(
    add_plan: Callable[..., Bundle], tiny: Any, wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(EngineError, match=says):
        open_engine(add_plan(plan_bytes(tiny.weight(), **wrong)), backend="tensorrt")


# ---- where it does not belong: nothing native is touched ----------------------------------------


@pytest.mark.parametrize(
    ("details", "says"),
    [
        ({"gpu": "Orin"}, "built for Orin, and this is NVIDIA Test; rebuild it here"),
        ({"compute_capability": "9.0"}, "for compute capability 9.0, and not 8.7; rebuild"),
        ({"version": "11.4.0"}, "with tensorrt 11.4.0, and 10.16.1 is installed; rebuild"),
        ({"weights_sha256": "0" * 64, "refittable": True}, "other weights than .*; refit it"),
        ({"weights_sha256": "0" * 64, "refittable": False}, "not refittable; rebuild it"),
    ],
)
def test_a_plan_of_elsewhere_says_rebuild_or_refit_before_it_is_deserialised(
    machine: Machine, add_plan: Callable[..., Bundle], details: dict[str, Any], says: str
) -> None:
    bundle = add_plan(weights=b"weights", **details)
    with pytest.raises(EngineError, match=says) as info:
        open_engine(bundle, backend="tensorrt")
    assert f"roadshift export {bundle.path} --to tensorrt --precision fp16" in str(info.value)
    assert machine.trt.calls == []
    assert machine.cudart.calls == []


@pytest.mark.parametrize("flavour", ["their_module", "", "tensorrt.evil", "os", 3, None, ["a"]])
def test_no_module_that_a_manifest_calls_tensorrt_is_imported(
    machine: Machine,
    add_plan: Callable[..., Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flavour: Any,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(EngineError, match=r"no TensorRT .*, a plan is of tensorrt or tensorrt_rtx"):
        open_engine(add_plan(flavour=flavour), backend="tensorrt")
    assert not (tmp_path / "ran").exists()
    assert machine.trt.calls == []


@given(
    key=st.sampled_from(["gpu", "version", "weights_sha256", "refittable", "argmax", "onnx"]),
    value=st.sampled_from([None, True, 3, 1e9, "", "x", [], {}, [{}]]),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.usefixtures("machine")
def test_odd_details_of_a_plan_run_it_or_are_a_sentence(
    key: str, value: Any, add_plan: Callable[..., Bundle], tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "bundle", ignore_errors=True)
    try:
        open_engine(add_plan(**{key: value}), backend="tensorrt").close()
    except RoadshiftError as error:
        assert str(error)  # noqa: PT017 - any other exception fails the test


def test_a_plan_of_the_bundles_own_weights_runs(
    machine: Machine, add_plan: Callable[..., Bundle]
) -> None:
    sha = hashlib.sha256(b"weights").hexdigest()
    with open_engine(add_plan(weights=b"weights", weights_sha256=sha), backend="tensorrt"):
        assert "deserialize" in machine.trt.calls


def test_bytes_that_the_manifest_does_not_list_are_never_deserialised(
    machine: Machine, add_plan: Callable[..., Bundle]
) -> None:
    bundle = add_plan()
    file = bundle.path / "model-fp16.plan"
    file.write_bytes(file.read_bytes().replace(b"labels", b"LABELS"))
    with pytest.raises(BundleError, match="was changed after it was written"):
        open_engine(open_bundle(bundle.path, verify=False), backend="tensorrt")
    assert machine.trt.calls == []


@pytest.mark.usefixtures("machine")
def test_a_cpu_runs_no_plan(add_plan: Callable[..., Bundle]) -> None:
    bundle = add_plan()
    with pytest.raises(EngineError, match="needs a GPU"):
        open_engine(bundle, backend="tensorrt", device="cpu")
    with open_engine(bundle, device="cpu") as engine:
        assert (engine.backend, "Instead" in engine.reason) == ("onnxruntime", False)


# ---- what is missing ----------------------------------------------------------------------------


def without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    use_driver(monkeypatch, None)


def without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)


def without_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    real = tensorrt_library.find_spec
    monkeypatch.setattr(
        tensorrt_library, "find_spec", lambda name: None if "cuda" in name else real(name)
    )


@pytest.mark.parametrize(
    ("take_away", "says"),
    [
        (without_driver, "no CUDA driver found .libcuda.so.1.; it needs an NVIDIA GPU"),
        (without_tensorrt, r"tensorrt is not installed: pip install 'roadshift\[tensorrt\]'"),
        (without_bindings, r"cuda-bindings is not installed: pip install 'roadshift\[tensorrt\]'"),
    ],
)
def test_a_missing_piece_is_an_error_where_tensorrt_was_asked_for_and_a_loud_fallback_elsewhere(
    machine: Machine,
    add_plan: Callable[..., Bundle],
    tiny: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    take_away: Callable[[pytest.MonkeyPatch], None],
    says: str,
) -> None:
    bundle = add_plan()
    take_away(monkeypatch)
    with pytest.raises(EngineError, match=says):
        open_engine(bundle, backend="tensorrt")
    with pytest.raises(EngineError, match=says):
        open_engine(bundle, artefact="model-fp16.plan")
    frame = images(16, 32)
    with caplog.at_level(logging.WARNING, "roadshift"), open_engine(bundle) as engine:
        assert engine.backend == "onnxruntime"
        assert "runs model.onnx (fp32)" in engine.reason
        assert "Instead of model-fp16.plan: " in engine.reason
        assert caplog.messages == [engine.reason]
        np.testing.assert_array_equal(engine.segment(frame), tiny.labels(tiny.weight(), frame))
    assert machine.trt.calls == []


@pytest.mark.usefixtures("machine")
def test_auto_prefers_the_plan_and_a_bench_lists_it_first(add_plan: Callable[..., Bundle]) -> None:
    bundle = add_plan()
    found, _ = bench_targets(bundle, ("onnxruntime", "tensorrt"), "cuda")
    assert [c.artefact.path for c in found] == ["model-fp16.plan", "model.onnx"]
    with open_engine(bundle) as engine:
        assert engine.backend == "tensorrt"


def test_a_bundle_without_a_plan_says_how_to_make_one(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    with pytest.raises(EngineError, match=r"no model for tensorrt; .* --to tensorrt"):
        open_engine(bundle, backend="tensorrt")


def test_any_tensorrt_is_found_the_full_one_first(monkeypatch: pytest.MonkeyPatch) -> None:
    full, rtx = FakeTensorRT(FakeCudart()), FakeTensorRT(FakeCudart(), "1.7")
    monkeypatch.setitem(sys.modules, "tensorrt", full)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", rtx)
    assert str(load_tensorrt()) == "tensorrt 10.16.1"
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert str(load_tensorrt()) == "tensorrt_rtx 1.7"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError, match=r"^tensorrt is not installed: pip install"):
        load_tensorrt()
    with pytest.raises(MissingDependencyError, match=r"^tensorrt_rtx is not installed: pip"):
        load_tensorrt("tensorrt_rtx")


def test_a_tensorrt_that_does_not_import_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = "raise OSError('libnvinfer.so.10: cannot open shared object file')"
    (tmp_path / "tensorrt.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(MissingDependencyError, match=r"does not import \(libnvinfer.so.10"):
        load_tensorrt("tensorrt")


def test_errors_of_the_library_are_kept_and_warnings_dropped() -> None:
    """With the real library where it is installed, which logs through the same interface."""
    pytest.importorskip("tensorrt_rtx")
    library = load_tensorrt("tensorrt_rtx")
    logger, said = library.listen()
    severity = library.module.ILogger.Severity
    logger.log(severity.WARNING, "mind this")
    logger.log(severity.ERROR, "it is\n  broken")
    assert said == ["it is broken"]
    assert isinstance(logger, library.module.ILogger)
