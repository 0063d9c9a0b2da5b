"""ONNX Runtime on a GPU as far as it goes without one: sessions asked for, memory, graphs, locks.

A session that computes on the fake device stands in for ONNX Runtime's; the CUDA runtime is
`fake_cuda`'s.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCudart
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.engines.cuda import Cuda
from roadshift.runtime.engines.onnx import engine as onnx_engine
from roadshift.runtime.engines.onnx import session as onnx_session
from roadshift.runtime.engines.onnx.graph import OnnxModel, read_model
from roadshift.runtime.engines.upsample import upsample_argmax
from roadshift.runtime.errors import EngineError, MissingDependencyError

MakeBundle = Callable[..., Bundle]


MODEL = OnnxModel(b"", Path("m.onnx"))


class Binding:
    def __init__(self) -> None:
        self.at: dict[str, tuple[Any, ...]] = {}

    def bind_input(self, name: str, *rest: Any) -> None:
        self.at[name] = rest

    bind_output = bind_input

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.at[name] = (value,)

    bind_ortvalue_output = bind_ortvalue_input


def on_device(dtype: Any, shape: tuple[int, ...], address: int) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    block = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(block, np.uint8).view(dtype).reshape(shape)


class Session:
    """ONNX Runtime's session on a GPU: reads and writes what is bound; ``runs`` counts.

    With a CUDA graph, only one thread may ever run it.
    """

    def __init__(self, real: Any, fails_at: int | None = None) -> None:
        self.real, self.fails_at, self.runs = real, fails_at, 0
        self.thread = threading.get_ident()

    def get_inputs(self) -> Any:
        return self.real.get_inputs()

    def get_outputs(self) -> Any:
        return self.real.get_outputs()

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:
        assert self.thread == threading.get_ident(), "a thread for which no graph was captured"
        self.runs += 1
        if self.runs == self.fails_at:
            raise RuntimeError("capture is not allowed\nand more")
        (output,) = set(binding.at) - {"image"}
        image, found = binding.at["image"], binding.at[output]
        if len(image) == 1:  # OrtValues
            found[0].values[...] = self.real.run([output], {"image": image[0].values})[0]
        else:
            device, ordinal, *place = image
            assert (device, ordinal, options is not None) == ("cuda", 0, True)
            given = on_device(*place).copy()
            on_device(*found[2:])[...] = self.real.run([output], {"image": given})[0]


class OrtValue:
    def __init__(self, shape: list[int], dtype: Any, device: str, ordinal: int) -> None:
        assert (device, ordinal) == ("cuda", 0)
        self.values = np.full(shape, 0xCC, dtype)

    def update_inplace(self, batch: np.ndarray) -> None:
        self.values[...] = batch

    def numpy(self) -> np.ndarray:
        return self.values.copy()


class Gpu:
    """A GPU where ONNX Runtime works: ``asked`` are settings, ``made`` the sessions."""

    def __init__(self) -> None:
        self.cudart = FakeCudart()
        self.asked: list[dict[str, Any]] = []
        self.made: list[Session] = []
        self.capture_fails = False

    def cuda_session(self, model: OnnxModel, threads: int, **settings: Any) -> Session:
        self.asked.append(settings)
        fails_at = 2 if settings["graph"] and self.capture_fails else None
        self.made.append(Session(onnx_session.cpu_session(model, threads), fails_at))
        return self.made[-1]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    machine = Gpu()
    monkeypatch.setattr(onnx_engine, "cuda_problem", lambda: None)
    monkeypatch.setattr(onnx_engine, "cuda_session", machine.cuda_session)
    monkeypatch.setattr(onnx_engine, "Cuda", lambda: Cuda(cudart=machine.cudart))
    return machine


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch_size", [1, 2, "batch"])
def test_labels_times_and_everything_released(
    make_bundle: MakeBundle, tiny: Any, gpu: Gpu, batch_size: int | str
) -> None:
    batch = images(3)
    with open_engine(make_bundle(batch=batch_size)) as engine:
        assert engine.device == "cuda"
        assert "on CUDA, as one CUDA graph: a CUDA driver" in engine.reason
        assert gpu.made[0].runs == 3  # warm: allocated, captured, launched
        assert engine.stage_ms is None
        np.testing.assert_array_equal(engine.infer(batch), tiny.labels(tiny.weight(), batch))
        runs = gpu.made[0].runs - 3
        assert engine.stage_ms == dict.fromkeys(("h2d", "gpu", "d2h"), float(runs))
        assert gpu.asked == [{"stream": gpu.asked[0]["stream"], "graph": True}]
        assert gpu.asked[0]["stream"] in gpu.cudart.alive["cudaStreamCreateWithFlags"]
    assert gpu.cudart.leaked == {}
    with pytest.raises(EngineError, match="the engine was closed"):
        engine.infer(batch)


class HostKernel:
    """`UpsampleKernel` on the fake device: its stand-in is the CPU's function."""

    def __init__(self, cuda: Cuda, logits: Any, size: Any, align_corners: bool) -> None:
        self.logits, self.size, self.align = logits, size, align_corners
        cuda.pinned((1,), np.uint8)  # something of its own, to be released

    def launch(self, logits_at: int, labels_at: int) -> None:
        given = on_device(np.float32, self.logits, logits_at)
        height, width = self.size
        labels = np.stack([upsample_argmax(z, width, height, self.align) for z in given])
        on_device(np.uint8, labels.shape, labels_at)[...] = labels


@pytest.mark.parametrize("where", ["kernel", "host"])
def test_labels_are_made_of_logits_on_the_device_or_on_the_cpu_with_the_reason(
    make_bundle: MakeBundle, tiny: Any, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def refuses(*_: Any) -> None:
        raise MissingDependencyError("no NVRTC to compile a kernel with")

    monkeypatch.setattr(onnx_engine, "UpsampleKernel", HostKernel if where == "kernel" else refuses)
    model = {"model.onnx": tiny.logits_onnx(32, 16, tiny.weight())}
    runtime = {"argmax": "runtime", "align_corners": True}
    bundle = make_bundle(models=model, artefact_details=runtime)
    batch = images(2)
    with open_engine(bundle) as engine:
        labels = engine.infer(batch)
        said = "labels made on the CPU (no NVRTC to compile a kernel with)"
        assert (said in engine.reason) == (where == "host")
    session = onnx_session.cpu_session(read_model(bundle, bundle.manifest.artefacts[0]), 1)
    logits = [session.run(None, {"image": one[None]})[0][0] for one in batch]
    expected = [upsample_argmax(z, 32, 16, True) for z in logits]
    np.testing.assert_array_equal(labels, np.stack(expected))
    assert gpu.cudart.leaked == {}


def test_what_cannot_be_captured_runs_kernel_by_kernel_and_says_so(
    make_bundle: MakeBundle, tiny: Any, gpu: Gpu
) -> None:
    gpu.capture_fails = True
    batch = images(1)
    with open_engine(make_bundle(), device="cuda") as engine:
        np.testing.assert_array_equal(engine.infer(batch), tiny.labels(tiny.weight(), batch))
        assert "CUDA, kernel by kernel (not as a graph: a first run failed" in engine.reason
        assert "and more" not in engine.reason
    assert [asked["graph"] for asked in gpu.asked] == [True, False]
    assert gpu.cudart.leaked == {}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("call", ["cudaMalloc", "cudaHostAlloc", "cudaEventCreate"])
def test_a_device_without_room_falls_back_loudly_or_is_an_error(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    bundle = make_bundle()
    machines: list[FakeCudart] = []

    def full() -> Cuda:
        machines.append(FakeCudart({call: 2}))
        return Cuda(cudart=machines[-1])

    monkeypatch.setattr(onnx_engine, "Cuda", full)
    with open_engine(bundle) as engine:
        assert engine.device == "cpu"
        assert f"CUDA refused {call}" in engine.reason
    with pytest.raises(EngineError, match=f"cannot run on CUDA: CUDA refused {call}"):
        open_engine(bundle, device="cuda")
    assert len(machines) == 4
    assert all(machine.leaked == {} for machine in machines)


def test_without_cuda_bindings_onnx_runtime_makes_the_copies(
    make_bundle: MakeBundle, tiny: Any, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingDependencyError("cuda-bindings")

    monkeypatch.setattr(onnx_engine, "Cuda", missing)
    values = SimpleNamespace(ortvalue_from_shape_and_type=OrtValue)
    monkeypatch.setattr("roadshift.runtime.engines.onnx.memory.onnxruntime.OrtValue", values)
    batch = images(2)
    with open_engine(make_bundle()) as engine:
        labels = engine.infer(batch)
        np.testing.assert_array_equal(labels, tiny.labels(tiny.weight(), batch))
        assert "host memory not pinned for want of cuda-bindings" in engine.reason
        assert gpu.asked == [{"stream": None, "graph": True}]
        assert set(engine.stage_ms or {}) == {"h2d", "gpu", "d2h"}
        first = labels.copy()
        engine.infer(images(2, seed=1))
        np.testing.assert_array_equal(labels, first)


@pytest.mark.usefixtures("gpu")
def test_threads_take_turns_on_a_gpu_in_the_thread_that_its_graph_is_for(
    make_bundle: MakeBundle, tiny: Any
) -> None:
    assert_threads_agree(make_bundle(), tiny, "cuda")


def test_threads_run_at_the_same_time_on_a_cpu(make_bundle: MakeBundle, tiny: Any) -> None:
    assert_threads_agree(make_bundle(), tiny, "cpu")


def assert_threads_agree(bundle: Bundle, tiny: Any, device: str) -> None:
    """Eight threads, each with its own frame, get their own labels, many times."""
    wrong: list[object] = []
    with open_engine(bundle, device=device) as engine:

        def work(seed: int) -> None:
            batch = images(1, seed)
            expected = tiny.labels(tiny.weight(), batch)
            try:
                for _ in range(50):
                    np.testing.assert_array_equal(engine.infer(batch), expected)
            except AssertionError as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


# ---- what sessions are asked for --------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments that `onnxruntime.InferenceSession` got; it gives what ``answers`` holds."""
    seen: dict[str, Any] = {}
    seen["answers"] = SimpleNamespace(
        get_providers=lambda: [seen["providers"][0][0]],
        get_provider_graph_assignment_info=lambda: [],
    )

    def make(file: str, options: Any, *, providers: list[Any], enable_fallback: int) -> Any:
        entry = "session.disable_cpu_ep_fallback"
        seen.update(file=file, providers=providers, cpu=options.get_session_config_entry(entry))
        assert enable_fallback == 0
        return seen["answers"]

    monkeypatch.setattr(onnx_session.onnxruntime, "InferenceSession", make)
    return seen


def part(name: str, nodes: int) -> Any:
    return SimpleNamespace(ep_name=name, get_nodes=lambda: [None] * nodes)


def test_a_cuda_session_forbids_the_cpu_and_rounding_to_tf32(asked: dict[str, Any]) -> None:
    onnx_session.cuda_session(MODEL, 2, stream=77, graph=True)
    ((name, settings),) = asked["providers"]
    assert name == "CUDAExecutionProvider"
    assert settings == {"user_compute_stream": "77", "use_tf32": "0", "enable_cuda_graph": "1"}
    assert asked["cpu"] == "1"
    onnx_session.cuda_session(MODEL, 2, stream=None, graph=False)
    assert asked["providers"][0][1] == {"use_tf32": "0", "enable_cuda_graph": "0"}


def test_a_tensorrt_session_keeps_engines_apart_and_leaves_precision_to_the_graph(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    asked["answers"].get_provider_graph_assignment_info = lambda: [
        part("TensorrtExecutionProvider", 30),
        part("CUDAExecutionProvider", 2),
    ]
    cache = tmp_path / "cache" / "abc"
    session = onnx_session.tensorrt_session(MODEL, 2, cache, stream=None)
    assert [name for name, _ in asked["providers"]] == [
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
    ]
    settings = asked["providers"][0][1]
    assert settings["trt_engine_cache_path"] == str(cache)
    assert settings["trt_fp16_enable"] == "0"
    assert cache.stat().st_mode & 0o777 == 0o700
    assert asked["cpu"] == "1"
    assert onnx_session.nodes_on(session, "CUDAExecutionProvider") == 2


def test_tensorrt_that_takes_no_node_and_sessions_that_fall_back_are_refused(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="TensorRT takes none of the model's nodes"):
        onnx_session.tensorrt_session(MODEL, 2, tmp_path / "c", stream=None)
    asked["answers"].get_providers = lambda: ["CPUExecutionProvider"]
    with pytest.raises(EngineError, match="fell back to CPUExecutionProvider"):
        onnx_session.cuda_session(MODEL, 2, stream=None, graph=False)


def test_onnx_runtimes_tensorrt_is_taken_only_when_asked_for_and_says_what_is_missing(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle()
    with pytest.raises(EngineError, match="cannot run on TensorRT: it needs a GPU"):
        open_engine(bundle, backend="onnxruntime-tensorrt", device="cpu")
    monkeypatch.setattr(
        onnx_session.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"]
    )
    with pytest.raises(EngineError, match="built without TensorRT"):
        open_engine(bundle, backend="onnxruntime-tensorrt")
    with pytest.raises(EngineError, match=r"backend 'trt': use auto, .* or onnxruntime-tensorrt"):
        open_engine(bundle, backend="trt")
