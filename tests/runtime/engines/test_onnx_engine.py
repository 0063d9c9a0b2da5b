"""Engines: labels of the ONNX engine, batches, the choice of backend and device, refusals."""

import os
import platform
import re
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from fake_cuda import Driver, use_driver
from onnx import TensorProto
from roadshift.runtime.bundle import Artefact, Bundle
from roadshift.runtime.engines import Backend, Engine, open_engine, registry
from roadshift.runtime.engines.onnx import engine as onnx_engine
from roadshift.runtime.engines.onnx import session as onnx_session
from roadshift.runtime.engines.upsample import upsample_argmax
from roadshift.runtime.errors import BundleError, EngineError, MissingDependencyError, ShapeError
from roadshift.runtime.frames import Frame
from roadshift.runtime.frames.preprocess import fit_frame, restore_labels
from roadshift.runtime.probes import core_watch
from roadshift.runtime.probes.core_watch import CoreWatch
from roadshift.runtime.probes.waiting import waiting

MakeBundle = Callable[..., Bundle]


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


# ---- labels -----------------------------------------------------------------------------------


def test_labels_are_those_of_the_graph(make_bundle: MakeBundle, tiny: Any) -> None:
    batch = images(3, 16, 32)
    with open_engine(make_bundle(), device="cpu") as engine:
        labels = engine.infer(batch)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, tiny.labels(tiny.weight(), batch))


@pytest.mark.parametrize("batch_size", [1, 2, 3, "batch"])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_any_number_of_frames_runs_through_any_batch_size(
    make_bundle: MakeBundle, tiny: Any, batch_size: int | str, frames: int
) -> None:
    batch = images(frames, 16, 32)
    with open_engine(make_bundle(batch=batch_size), device="cpu") as engine:
        np.testing.assert_array_equal(engine.infer(batch), tiny.labels(tiny.weight(), batch))


def test_frames_of_any_size_come_back_at_their_size(make_bundle: MakeBundle, tiny: Any) -> None:
    sizes = [(16, 32), (48, 64), (9, 21)]
    frames = [Frame(images(*size, seed=i), str(i), 0) for i, size in enumerate(sizes)]
    with open_engine(make_bundle(), device="cpu") as engine:
        one_by_one = [engine.segment(frame) for frame in frames]
        together = engine.segment_batch([frame.image for frame in frames])
        assert engine.segment_batch([]) == []
    for frame, alone, batched in zip(frames, one_by_one, together, strict=True):
        expected = tiny.labels(tiny.weight(), fit_frame(frame.image, 32, 16))
        height, width = frame.image.shape[:2]
        np.testing.assert_array_equal(alone, restore_labels(expected, width, height))
        np.testing.assert_array_equal(batched, alone)


def test_a_view_that_is_not_contiguous_gives_the_labels_of_its_copy(
    make_bundle: MakeBundle,
) -> None:
    mirrored = images(16, 32)[:, ::-1]
    with open_engine(make_bundle(), device="cpu") as engine:
        np.testing.assert_array_equal(engine.segment(mirrored), engine.segment(mirrored.copy()))


def test_labels_of_one_run_are_not_overwritten_by_the_next(make_bundle: MakeBundle) -> None:
    with open_engine(make_bundle(), device="cpu") as engine:
        first = engine.segment(images(16, 32, seed=1))
        kept = first.copy()
        engine.segment(images(16, 32, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_a_batch_of_the_wrong_size_names_both_shapes(make_bundle: MakeBundle) -> None:
    with open_engine(make_bundle(), device="cpu") as engine:
        with pytest.raises(ShapeError, match=r"\(B, 16, 32, 3\), got uint8 \(1, 8, 8, 3\)"):
            engine.infer(images(1, 8, 8))
        assert engine.infer(np.zeros((0, 16, 32, 3), np.uint8)).shape == (0, 16, 32)
        with pytest.raises(ShapeError, match="float32"):
            engine.infer(images(1, 16, 32).astype(np.float32))


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, "batch"])
def test_where_the_argmax_is_left_to_the_runtime_labels_are_upsampled_logits(
    make_bundle: MakeBundle, tiny: Any, align: bool, batch_size: int | str
) -> None:
    bundle = make_bundle(
        models={"model.onnx": tiny.logits_onnx(32, 16, tiny.weight(), batch=batch_size)},
        artefact_details={"argmax": "runtime", "align_corners": align},
    )
    batch = images(3, 16, 32)
    logits = np.einsum("nhwc,kc->nkhw", batch[:, ::4, ::4].astype(np.float32), tiny.weight())
    expected = [upsample_argmax(one.astype(np.float32), 32, 16, align) for one in logits]
    with open_engine(bundle, device="cpu") as engine:
        labels = engine.infer(batch)
    assert labels.dtype == np.uint8
    assert np.mean(labels != np.stack(expected)) < 1e-3  # float32 sums in another order


def test_logits_that_are_not_those_of_the_label_space_are_refused(
    make_bundle: MakeBundle, tiny: Any
) -> None:
    runtime = {"argmax": "runtime", "align_corners": False}
    six = make_bundle(
        "six",
        models={"model.onnx": tiny.logits_onnx(32, 16, np.ones((6, 3), np.float32))},
        artefact_details=runtime,
    )
    with pytest.raises(EngineError, match=r"logits \[1, 6, 4, 8\].*4 classes of 'four'"):
        open_engine(six, device="cpu")
    with pytest.raises(EngineError, match=r"gives labels, and .* from 'image' to 'logits'"):
        open_engine(make_bundle("graph", artefact_details=runtime), device="cpu")


# ---- choices ----------------------------------------------------------------------------------


def test_an_engine_describes_itself_in_json_types(make_bundle: MakeBundle) -> None:
    with open_engine(make_bundle().path, device="cpu", threads=1) as engine:
        assert engine.describe() == {
            "backend": "onnxruntime",
            "artefact": "model.onnx",
            "precision": "fp32",
            "device": "cpu",
            "input_size": [32, 16],
            "label_space": "four",
            "threads": 1,
            "waiting": waiting(),
            "reason": engine.reason,
        }
        assert "model.onnx (fp32) on the CPU with 1 threads: as asked" in engine.reason


def test_threads_default_to_the_cores_of_this_process(make_bundle: MakeBundle) -> None:
    with open_engine(make_bundle(), device="cpu") as engine:
        assert engine.describe()["threads"] == len(os.sched_getaffinity(0))


def test_fp32_comes_first_and_another_artefact_is_taken_by_name(
    make_bundle: MakeBundle, tiny: Any
) -> None:
    models = {f"{i}.onnx": tiny.onnx(32, 16, tiny.weight(i)) for i in range(3)}
    precisions = {"0.onnx": "int8", "1.onnx": "fp32", "2.onnx": "fp16"}
    bundle = make_bundle(models=models, precisions=precisions)
    frame = images(16, 32)
    for asked, index in [(None, 1), ("0.onnx", 0), ("2.onnx", 2)]:
        with open_engine(bundle, device="cpu", artefact=asked) as engine:
            assert (engine.artefact, engine.precision) == (
                f"{index}.onnx",
                precisions[f"{index}.onnx"],
            )
            np.testing.assert_array_equal(
                engine.segment(frame), tiny.labels(tiny.weight(index), frame)
            )


class FakeTorch(Engine):
    def _infer(self, batch: np.ndarray) -> np.ndarray:
        return np.zeros(batch.shape[:3], np.uint8)


@pytest.fixture
def torch_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def opener(bundle: Bundle, artefact: Artefact, *, device: str, threads: int | None) -> Engine:
        return FakeTorch(
            bundle.label_space,
            bundle.manifest.input,
            backend="torch",
            precision="fp32",
            device="cpu" if device == "auto" else device,
            artefact=artefact.path,
            reason=f"torch, {threads} threads",
        )

    monkeypatch.setitem(registry.BACKENDS, "torch", Backend("weights", opener))


@pytest.mark.usefixtures("torch_backend")
def test_torch_is_used_where_it_is_asked_for_or_alone(
    make_bundle: MakeBundle,
) -> None:
    both = make_bundle("both", weights=b"w")
    weights_only = make_bundle("weights", models={}, weights=b"w")
    assert open_engine(both, device="cpu").backend == "onnxruntime"
    assert open_engine(both, backend="torch").backend == "torch"
    assert open_engine(both, artefact="model.safetensors").backend == "torch"
    alone = open_engine(weights_only, threads=3)
    assert (alone.backend, alone.artefact, alone.reason) == (
        "torch",
        "model.safetensors",
        "torch, 3 threads",
    )


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda _: None)


@pytest.mark.usefixtures("no_torch")
def test_without_torch_a_bundle_of_weights_says_how_to_export(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(models={}, weights=b"w")
    with pytest.raises(
        EngineError,
        match=r"bundle has no exported model and torch is not installed: run `roadshift export "
        r".*bundle --to onnx` where it is, or pip install 'roadshift\[adapt\]'",
    ):
        open_engine(bundle)
    with pytest.raises(EngineError, match=r"torch is not installed; pip install"):
        open_engine(bundle, backend="torch")
    with pytest.raises(EngineError, match=r"no model for onnxruntime.*--to onnx"):
        open_engine(bundle, backend="onnxruntime")
    with pytest.raises(EngineError, match="no model for any engine"):
        open_engine(make_bundle("empty", models={}))


@pytest.mark.usefixtures("no_torch")
def test_where_torch_is_installed_its_backends_are_loaded_when_one_is_opened(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "brings_torch.py").write_text(
        "def opener(bundle, artefact, *, device, threads):\n"
        "    raise RuntimeError(f'opened {artefact.path}')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    torch = registry.BACKENDS["torch"]._replace(opener="brings_torch:opener")
    monkeypatch.setitem(registry.BACKENDS, "torch", torch)
    monkeypatch.setattr(registry, "find_spec", lambda _: object())
    assert open_engine(make_bundle("both", weights=b"w")).backend == "onnxruntime"
    assert "brings_torch" not in sys.modules
    with pytest.raises(RuntimeError, match=r"opened model\.safetensors"):
        open_engine(make_bundle("alone", models={}, weights=b"w"))


def test_what_does_not_exist_is_refused_by_name(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    with pytest.raises(EngineError, match=r"no 'other\.onnx' .* its models are model\.onnx"):
        open_engine(bundle, artefact="other.onnx")
    with pytest.raises(EngineError, match="backend 'tflite': use auto"):
        open_engine(bundle, backend="tflite")
    with pytest.raises(EngineError, match="device 'npu': use auto"):
        open_engine(bundle, device="npu")
    with pytest.raises(EngineError, match="threads 0: an engine needs at least 1"):
        open_engine(bundle, threads=0)
    with pytest.raises(BundleError):
        open_engine(bundle.path / "missing")


# ---- refusals of models -----------------------------------------------------------------------


def test_a_damaged_model_is_refused_by_name(make_bundle: MakeBundle, tiny: Any) -> None:
    whole = tiny.onnx(32, 16, tiny.weight())
    for name, data in {"cut": whole[:90], "text": b"not a model"}.items():
        bundle = make_bundle(name, models={"model.onnx": data})
        with pytest.raises(EngineError, match=r"model\.onnx cannot be loaded .* export it again"):
            open_engine(bundle, device="cpu")


def test_a_model_of_another_size_is_refused_with_both_sizes(
    make_bundle: MakeBundle, tiny: Any
) -> None:
    bundle = make_bundle(models={"model.onnx": tiny.onnx(64, 48, tiny.weight())})
    with pytest.raises(EngineError, match=r"\[1, 48, 64, 3\].*uint8 frames of 32x16"):
        open_engine(bundle, device="cpu")


def test_a_model_without_uint8_labels_is_refused(make_bundle: MakeBundle) -> None:
    logits = make_bundle("logits", output="logits")
    with pytest.raises(EngineError, match=r"gives logits, and an engine needs"):
        open_engine(logits, device="cpu")
    wide = make_bundle("wide", output_type=TensorProto.INT64)
    with pytest.raises(EngineError, match=r"gives tensor\(int64\)"):
        open_engine(wide, device="cpu")


# ---- CUDA: never a silent fallback ------------------------------------------------------------


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    use_driver(monkeypatch, None)
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnx_engine.onnxruntime, "get_available_providers", lambda: available)


@pytest.mark.usefixtures("no_driver")
def test_without_a_driver_cuda_is_an_error_and_auto_says_why_it_is_the_cpu(
    make_bundle: MakeBundle,
) -> None:
    bundle = make_bundle()
    with pytest.raises(EngineError, match=r"on CUDA: no CUDA driver found .libcuda\.so\.1"):
        open_engine(bundle, device="cuda")
    with open_engine(bundle) as engine:
        assert engine.device == "cpu"
        assert "no CUDA driver found (libcuda.so.1)" in engine.reason


def test_an_onnxruntime_without_cuda_says_so(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        onnx_engine.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"]
    )
    with pytest.raises(EngineError, match="built without CUDA"):
        open_engine(make_bundle(), device="cuda")


@pytest.mark.parametrize(
    ("init", "count", "said"),
    [(100, 0, r"cuInit returned 100"), (0, 0, "finds no device"), (0, 1, None)],
)
def test_the_driver_is_asked_for_a_device(
    monkeypatch: pytest.MonkeyPatch, init: int, count: int, said: str | None
) -> None:
    use_driver(monkeypatch, Driver(count, init))
    monkeypatch.setattr(
        onnx_engine.onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"]
    )
    problem = onnx_engine.cuda_problem()
    assert (problem is None) if said is None else (said in str(problem))


@pytest.mark.parametrize("problem", [onnx_session.cuda_problem, onnx_session.tensorrt_problem])
@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ("x86_64", r"\(pip install onnxruntime-gpu\)$"),
        ("aarch64", r"\(on a Jetson look .* NVIDIA's Jetson wheel index, [^()]*\)$"),
    ],
)
def test_where_an_onnxruntime_with_cuda_comes_from(
    monkeypatch: pytest.MonkeyPatch, problem: Callable[[], str | None], machine: str, said: str
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert re.search(said, str(problem()))


@pytest.mark.no_gpu
def test_a_session_that_falls_back_is_refused_quietly(
    make_bundle: MakeBundle,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """With a driver reported where there is none, ONNX Runtime itself offers the CPU instead."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime was built without CUDA")

    def not_installed() -> None:
        raise MissingDependencyError("cuda-bindings")

    monkeypatch.setattr(onnx_engine, "cuda_problem", lambda: None)
    monkeypatch.setattr(onnx_engine, "Cuda", not_installed)
    bundle = make_bundle()
    with pytest.raises(EngineError, match="cannot run on CUDA: "):
        open_engine(bundle, device="cuda")
    with open_engine(bundle) as engine:
        assert engine.device == "cpu"
        assert "on the CPU" in engine.reason
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


@pytest.mark.gpu
def test_cuda_gives_the_labels_of_the_cpu(make_bundle: MakeBundle, tiny: Any) -> None:
    batch = images(3, 16, 32)
    with open_engine(make_bundle(), device="cuda") as engine:
        assert engine.device == "cuda"
        np.testing.assert_array_equal(engine.infer(batch), tiny.labels(tiny.weight(), batch))


def test_a_session_is_exchanged_while_cores_are_scarce_and_gives_the_same_labels(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_watch, "WATCH", CoreWatch(lambda: 0.0, lambda: None))
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    frame = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
    bundle = make_bundle()
    with open_engine(bundle, device="cpu", threads=2) as engine:
        session = engine._session  # type: ignore[attr-defined]
        expected, spinning = engine.segment(frame), session._current
        with core_watch.WATCH._lock:
            core_watch.WATCH._tell(True)
        assert session._current is not spinning
        np.testing.assert_array_equal(engine.segment(frame), expected)
        with core_watch.WATCH._lock:
            core_watch.WATCH._tell(False)
        assert session._current is spinning
        np.testing.assert_array_equal(engine.segment(frame), expected)
    assert session not in core_watch.WATCH._waiters  # also where it is held still


def test_an_engine_whose_file_was_exchanged_goes_on_with_the_session_it_has(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_watch, "WATCH", CoreWatch(lambda: 0.0, lambda: None))
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    frame = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
    bundle = make_bundle()
    with open_engine(bundle, device="cpu", threads=2) as engine:
        expected = engine.segment(frame)
        path = bundle.path / "model.onnx"
        path.write_bytes(path.read_bytes()[::-1])
        with core_watch.WATCH._lock:
            core_watch.WATCH._tell(True)
        np.testing.assert_array_equal(engine.segment(frame), expected)


def test_the_first_engine_of_a_process_opens_while_other_programs_use_the_cores(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch tells its waiters at its first look; a session in the making holds its lock."""
    others = iter([0.0, 100.0])  # seconds of cores, since the watch was made
    watch = CoreWatch(lambda: 0.0, lambda: next(others, None))
    watch._born = (watch._born[0] - 10, 0.0)
    monkeypatch.setattr(core_watch, "WATCH", watch)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    frame = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
    sessions = list[Any]()

    def work() -> None:
        with open_engine(make_bundle(), device="cpu", threads=2) as engine:
            engine.segment(frame)
            sessions.append(engine._session)  # type: ignore[attr-defined]

    opening = threading.Thread(target=work, daemon=True)
    opening.start()
    opening.join(60)
    assert not opening.is_alive(), "it waits for itself"
    assert watch.scarce
    assert list(sessions[0]._sessions) == [False], "its threads sleep from the beginning"


def test_a_model_above_the_limit_on_file_sizes_is_opened(
    make_bundle: MakeBundle, tiny: Any
) -> None:
    bundle, batch = make_bundle(), images(1, 16, 32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with open_engine(bundle, device="cpu") as engine:
            labels = engine.infer(batch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    np.testing.assert_array_equal(labels, tiny.labels(tiny.weight(), batch))
