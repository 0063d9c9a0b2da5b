"""OpenVINO: the labels of ONNX Runtime, its refusals as sentences, and chosen only by its name."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import odd_graphs
import onnx
import pixel_networks
import pytest
from onnx import TensorProto, helper
from roadshift.runtime.bench.targets import bench_targets, choose_backends
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.engines import Engine, open_engine, registry
from roadshift.runtime.engines.upsample import upsample_argmax
from roadshift.runtime.errors import BundleError, EngineError, MissingDependencyError
from roadshift.runtime.frames import Frame

if find_spec("openvino") is None:
    pytest.skip("openvino is not installed (the extra of that name)", allow_module_level=True)

from roadshift.runtime.engines.openvino_engine import OpenVinoEngine, reason, settings_for

MakeBundle = Callable[..., Bundle]
FRAME = Frame(np.random.default_rng(0).integers(1, 256, (16, 32, 3), np.uint8), "drive_0001", 0)


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def opened(bundle: Bundle, **settings: Any) -> Engine:
    return open_engine(bundle, backend="openvino", **settings)


# ---- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, "batch"])
@pytest.mark.parametrize("frames", [1, 5])
def test_labels_are_those_of_the_graph_for_any_batch(
    make_bundle: MakeBundle, tiny: Any, batch_size: int | str, frames: int
) -> None:
    batch = images(frames, 16, 32)
    with opened(make_bundle(batch=batch_size)) as engine:
        labels = engine.infer(batch)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, tiny.labels(tiny.weight(), batch))


@pytest.mark.parametrize("align", [False, True])
def test_labels_are_made_of_logits_where_the_artefact_ends_in_them(
    make_bundle: MakeBundle, tiny: Any, align: bool
) -> None:
    weight, batch = tiny.weight(), images(2, 16, 32)
    model = tiny.logits_onnx(32, 16, weight)
    bundle = make_bundle(
        models={"model.onnx": model}, artefact_details={"argmax": "runtime", "align_corners": align}
    )
    with opened(bundle) as engine:
        labels = engine.infer(batch)
    logits = np.einsum("kc,bhwc->bkhw", weight, batch[:, ::4, ::4].astype(np.float32))
    expected = np.stack([upsample_argmax(z, 32, 16, align) for z in logits])
    assert (labels == expected).mean() > 0.99  # but for ties


def test_outputs_behind_a_cast_that_changes_nothing_are_found_by_their_names(
    make_bundle: MakeBundle, tiny: Any
) -> None:
    """As every exported model ends: OpenVINO gives the value before it the same names."""
    model = onnx.ModelProto.FromString(tiny.logits_onnx(32, 16, tiny.weight()))
    model.graph.node[-1].output[0] = "conv2d_44"
    cast = helper.make_node("Cast", ["conv2d_44"], ["logits"], to=TensorProto.FLOAT)
    model.graph.node.append(cast)
    bundle = make_bundle(
        models={"model.onnx": model.SerializeToString()}, artefact_details={"argmax": "runtime"}
    )
    with opened(bundle) as engine, open_engine(bundle, backend="onnxruntime") as other:
        assert (engine.segment(FRAME) == other.segment(FRAME)).mean() > 0.99


def test_labels_of_one_run_are_not_overwritten_by_the_next(make_bundle: MakeBundle) -> None:
    with opened(make_bundle()) as engine:
        first = engine.segment(images(16, 32, seed=1))
        kept = first.copy()
        engine.segment(images(16, 32, seed=2))
        mirrored = images(16, 32)[:, ::-1]
        np.testing.assert_array_equal(engine.segment(mirrored), engine.segment(mirrored.copy()))
    np.testing.assert_array_equal(first, kept)


def test_threads_that_share_an_engine_get_their_own_labels(
    make_bundle: MakeBundle, tiny: Any
) -> None:
    frames = [images(16, 32, seed=i) for i in range(40)]
    with opened(make_bundle()) as engine, ThreadPoolExecutor(4) as threads:
        for frame, labels in zip(frames, threads.map(engine.segment, frames), strict=True):
            np.testing.assert_array_equal(labels, tiny.labels(tiny.weight(), frame))


# ---- what it says --------------------------------------------------------------------------------


def test_it_says_what_runs_where_and_sums_in_float32(make_bundle: MakeBundle) -> None:
    with opened(make_bundle(), threads=1) as engine:
        told = engine.describe()
        precision = engine._compiled.get_property("INFERENCE_PRECISION_HINT")  # type: ignore[attr-defined]
        affinity = os.sched_getaffinity(0)
        engine.segment(FRAME)
        assert os.sched_getaffinity(0) == affinity
    assert (told["backend"], told["device"], told["threads"]) == ("openvino", "cpu", 1)
    assert precision.get_type_name() == "f32"  # by itself it is bfloat16 on some CPUs
    assert "runs model.onnx (fp32) on the CPU with 1 threads" in told["reason"]


@pytest.mark.parametrize(
    ("precision", "target", "own_integers"),
    [
        ("fp32", "onnx", True),
        ("int8", "onnx", False),
        ("int8", None, False),
        ("int8", "onnxruntime-cpu", True),
    ],
)
def test_symmetric_int8_is_computed_as_the_graph_says(
    make_bundle: MakeBundle, precision: str, target: str | None, own_integers: bool
) -> None:
    bundle = make_bundle(precisions={"model.onnx": precision})
    artefact = bundle.manifest.artefacts[0].model_copy(update={"target": target})
    assert settings_for(artefact, 2).get("LP_TRANSFORMS_MODE", True) is own_integers
    with OpenVinoEngine(bundle, artefact) as engine:  # OpenVINO takes the setting
        assert engine.segment(FRAME).shape == (16, 32)


def test_auto_never_chooses_it_and_a_bench_does(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    with open_engine(bundle) as engine:
        assert engine.backend == "onnxruntime"
    found, _ = bench_targets(bundle, choose_backends("auto"), "auto")
    assert {target.backend for target in found} == {"onnxruntime", "openvino"}


def test_where_it_is_not_installed_one_sentence_names_the_extra(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle()
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    install = r"^openvino is not installed; pip install 'roadshift\[openvino\]'\.$"
    with pytest.raises(EngineError, match=install):
        opened(bundle)
    assert "openvino" not in choose_backends("auto")
    _, left_out = bench_targets(bundle, ("openvino",), "auto")
    assert [row["error"] for row in left_out] == [
        "openvino is not installed; pip install 'roadshift[openvino]'."
    ]
    monkeypatch.undo()
    found = builtins.__import__

    def failing(name: str, *rest: Any) -> Any:
        if name == "openvino":
            raise ImportError("libtbb.so.12: cannot open shared object file")
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", failing)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    with pytest.raises(
        MissingDependencyError, match=r"does not import \(libtbb\.so\.12.*\); uninst"
    ):
        opened(bundle)


def test_a_bundle_without_onnx_is_to_be_exported_first(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(models={}, weights=b"weights")
    with pytest.raises(EngineError, match=r"no model for openvino; make one with `roadshift exp"):
        opened(bundle)
    with pytest.raises(EngineError, match="runs on the CPU; leave device, or use backend='onnxrun"):
        opened(make_bundle("other"), device="cuda")


# ---- refusals ------------------------------------------------------------------------------------


def node(kind: str, **attributes: Any) -> bytes:
    return odd_graphs.graph([helper.make_node(kind, ["image"], ["labels"], **attributes)])


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (node("Foo", domain="your.package"), "your.package.Foo); use"),
        (node("StringNormalizer"), ": StringNormalizer"),
        (odd_graphs.endless(), "has a Loop, which OpenVINO does not stop where it never ends"),
    ],
)
def test_a_model_that_it_does_not_take_is_one_sentence(
    make_bundle: MakeBundle, model: bytes, sentence: str
) -> None:
    with pytest.raises(EngineError) as caught:
        opened(make_bundle(models={"model.onnx": model}))
    said = str(caught.value)
    assert sentence in said
    assert said.endswith("use backend='onnxruntime'.")
    assert "\n" not in said
    assert "src/" not in said


def test_the_bytes_that_were_hashed_are_those_that_run(make_bundle: MakeBundle, tiny: Any) -> None:
    bundle = make_bundle()
    file = bundle.path / "model.onnx"
    file.write_bytes(tiny.onnx(32, 16, tiny.weight(seed=1)))
    with pytest.raises(BundleError, match=r"model\.onnx"):
        opened(bundle)


def test_a_model_beside_the_contract_is_refused(make_bundle: MakeBundle, tiny: Any) -> None:
    model = tiny.onnx(32, 16, tiny.weight(), output_type=TensorProto.INT64)
    with pytest.raises(EngineError, match=r"gives i64, but the manifest says uint8 frames of 32x1"):
        opened(make_bundle(models={"model.onnx": model}))
    other = tiny.onnx(64, 16, tiny.weight())
    with pytest.raises(EngineError, match=r"takes tensor\(uint8\) \[1, 16, 64, 3\]"):
        opened(make_bundle("wide", models={"model.onnx": other}))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (odd_graphs.filled([1, 16, 32], 200), "gives class 200 where the label space has 4"),
        (odd_graphs.filled([1, 8, 8]), "gives uint8 labels of 1x8x8"),
        (odd_graphs.filled([1, -3, 32]), "fails while running"),
    ],
)
def test_answers_that_are_none_are_named_with_their_frame(
    make_bundle: MakeBundle, model: bytes, sentence: str
) -> None:
    with (
        opened(make_bundle(models={"model.onnx": model})) as engine,
        pytest.raises(EngineError) as caught,
    ):
        engine.segment(FRAME)
    said = str(caught.value)
    assert said.startswith(f"model.onnx {sentence}")
    assert "on frame drive_0001; export the bundle again" in said
    assert "\n" not in said
    assert "src/" not in said


def test_scores_that_are_nan_are_found_behind_labels(make_bundle: MakeBundle, tiny: Any) -> None:
    model = odd_graphs.scores(tiny.weight(), divide_by=0.0)
    with (
        opened(make_bundle(models={"model.onnx": model})) as engine,
        pytest.raises(EngineError, match=r"model\.onnx gives logits that are not finite on frame"),
    ):
        engine.segment(FRAME)


# ---- stopping ------------------------------------------------------------------------------------


def slow(layers: int = 100) -> bytes:
    """Convolutions that take seconds, one after the other."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "first"], ["y0"], pads=[2, 2, 2, 2]),
    ]
    nodes += [
        helper.make_node("Conv", [f"y{i}", "w"], [f"y{i + 1}"], pads=[2, 2, 2, 2])
        for i in range(layers)
    ]
    nodes.append(helper.make_node("ArgMax", [f"y{layers}"], ["c"], axis=1, keepdims=0))
    nodes.append(helper.make_node("Cast", ["c"], ["labels"], to=TensorProto.UINT8))
    weights = {
        "first": rng.normal(size=(64, 3, 5, 5)).astype(np.float32) / 10,
        "w": rng.normal(size=(64, 64, 5, 5)).astype(np.float32) / 40,
    }
    return odd_graphs.graph(nodes, size=(128, 256), shape=[1, 128, 256], weights=weights)


def test_a_run_is_interrupted_from_another_thread_and_the_next_one_goes_on(
    make_bundle: MakeBundle,
) -> None:
    bundle = make_bundle(width=256, height=128, models={"model.onnx": slow()})
    with opened(bundle) as engine:
        done = threading.Event()

        def interrupt_until_done() -> None:
            while not done.wait(0.02):
                assert engine.interrupt()

        helper_thread = threading.Thread(target=interrupt_until_done)
        helper_thread.start()
        try:
            with pytest.raises(EngineError, match="was interrupted on frame drive_0001; run it ag"):
                engine.segment(FRAME)
        finally:
            done.set()
            helper_thread.join()


def test_ctrl_c_ends_a_run_in_the_main_thread(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(width=256, height=128, models={"model.onnx": slow()})
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with opened(bundle) as engine:
            press = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
            press.start()
            with pytest.raises(KeyboardInterrupt):
                engine.segment(FRAME)
            press.join()
    finally:
        signal.signal(signal.SIGINT, before)


LET_GO = """
import gc, signal, sys, threading
from roadshift.runtime.labels import label_space
held = []
if sys.argv[1] == "engine":
    from roadshift.runtime.bundle import open_bundle
    from roadshift.runtime.engines import open_engine
    held.append(open_engine(open_bundle(sys.argv[2]), backend="openvino"))
else:
    from roadshift.adapt.black_boxes.openvino_file import _contents, _digest, _load
    import hashlib, pathlib
    file = pathlib.Path(sys.argv[2])
    digests = b"".join(map(_digest, _contents(file)))
    held.append(_load(file, hashlib.sha256(digests).hexdigest()))
def let_go():
    one = held.pop()
    getattr(one, "close", lambda: None)()
    del one
    gc.collect()
thread = threading.Thread(target=let_go)
thread.start()
thread.join()
signal.signal(signal.SIGINT, lambda *_: print("heard"))
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.parametrize("kind", ["engine", "black box"])
def test_a_signal_is_heard_after_another_thread_has_let_go_of_a_model(
    make_bundle: MakeBundle, tmp_path: Path, kind: str
) -> None:
    """OpenVINO's plugin, unloaded by a thread, would take the main thread's stack for signals."""
    if kind == "engine":
        path = make_bundle().path
    else:
        path = tmp_path / "box.xml"
        pixel_networks.write_openvino(path)
    done = subprocess.run(
        [sys.executable, "-c", LET_GO, kind, path], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "heard\n", "")


def test_a_closed_engine_says_so(make_bundle: MakeBundle) -> None:
    engine = opened(make_bundle())
    engine.close()
    engine.close()
    assert engine.interrupt()
    with pytest.raises(EngineError, match="was closed; open it again"):
        engine.segment(FRAME)


def test_reasons_without_places_of_the_source() -> None:
    told = "Exception from src/inference/src/cpp/core.cpp:1:\nCheck 'a' failed at src/b.cpp:2:\nNo."
    assert reason(RuntimeError(told)) == "No"
    assert reason(RuntimeError("")) == "RuntimeError"


def test_the_file_is_not_opened_a_second_time(
    make_bundle: MakeBundle, tiny: Any, tmp_path: Path
) -> None:
    bundle = make_bundle()
    with opened(bundle) as engine:
        (bundle.path / "model.onnx").unlink()
        labels = engine.segment(FRAME)
    np.testing.assert_array_equal(labels, tiny.labels(tiny.weight(), FRAME.image))
    assert not list(tmp_path.rglob("*.blob"))  # OpenVINO's cache
