"""Checks of what a network gives: shape, type, classes, finite scores; one sentence otherwise."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import odd_graphs
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.engines import Engine, open_engine
from roadshift.runtime.engines.checks import check_labels, check_logits
from roadshift.runtime.engines.onnx.nan_checks import nan_weights, scores_are_finite
from roadshift.runtime.errors import EngineError, RunInterrupted
from roadshift.runtime.frames import Frame, open_frames
from roadshift.runtime.pipeline import Pipeline
from roadshift.runtime.pipeline.run_frames import run_frames

MakeBundle = Callable[..., Bundle]
FRAME = Frame(np.random.default_rng(0).integers(1, 256, (16, 32, 3), np.uint8), "drive_0001", 0)
NAN = float("nan")


def opened(make_bundle: MakeBundle, model: bytes, **details: Any) -> Engine:
    bundle = make_bundle(models={"model.onnx": model}, artefact_details=details)
    return open_engine(bundle, device="cpu", threads=1)


def said(engine: Engine) -> str:
    """The engine's sentence about a frame that it has no labels for."""
    with engine, pytest.raises(EngineError) as caught:
        engine.segment(FRAME)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- answers that are none ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (odd_graphs.filled([1, 16, 32], 200), "gives class 200 where the label space has 4"),
        (odd_graphs.filled([1, 16, 32], 4), "gives class 4 where the label space has 4 classes"),
        (odd_graphs.filled([1, 0, 32]), "gives empty labels, of 1x0x32"),
        (odd_graphs.filled([0, 16, 32]), "gives empty labels, of 0x16x32"),
        (odd_graphs.filled([1, 8, 8]), "gives uint8 labels of 1x8x8"),
        (odd_graphs.filled([2, 16, 32]), "gives uint8 labels of 2x16x32"),
        (odd_graphs.filled([1 << 20, 1 << 20, 1 << 20]), "fails while running"),
        (odd_graphs.filled([1, -3, 32]), "fails while running"),
    ],
)
def test_a_graph_that_answers_nonsense_is_named_with_its_frame(
    make_bundle: MakeBundle, model: bytes, sentence: str
) -> None:
    message = said(opened(make_bundle, model))
    assert message.startswith(f"model.onnx {sentence}")
    assert "on frame drive_0001; export the bundle again" in message
    assert "onnxruntime_src" not in message


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT8])
def test_labels_of_another_type_are_refused_at_opening(
    make_bundle: MakeBundle, tiny: Any, kind: int
) -> None:
    with pytest.raises(EngineError, match=r"gives tensor\(\w+\), but the manifest says uint8"):
        opened(make_bundle, tiny.onnx(32, 16, tiny.weight(), output_type=kind))


def test_the_frame_of_a_batch_is_the_one_that_is_wrong() -> None:
    labels = np.zeros((5, 2, 3), np.uint8)
    labels[3, 1, 1] = 19
    with pytest.raises(EngineError) as caught:
        check_labels(labels, labels.shape, 19)
    assert caught.value.frame == 3  # type: ignore[attr-defined]
    logits = np.zeros((5, 4, 2, 3), np.float32)
    logits[2, 0, 0, 0] = NAN
    with pytest.raises(EngineError, match="gives 1 of 24 logits that are not finite") as caught:
        check_logits(logits, logits.shape)
    assert caught.value.frame == 2  # type: ignore[attr-defined]
    check_labels(np.full((1, 2, 3), 18, np.uint8), (1, 2, 3), 19)
    check_logits(np.full((1, 4, 2, 3), 3e38, np.float32), (1, 4, 2, 3))


# ---- scores that are not finite ------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_logits_that_are_not_finite_are_refused_on_their_frame(
    make_bundle: MakeBundle, tiny: Any, bad: float
) -> None:
    """3e38 times a pixel overflows; so the weights are finite and the scores are not."""
    weight = tiny.weight() if bad != bad else np.full((4, 3), 3e38, np.float32)
    model = tiny.logits_onnx(32, 16, weight)
    if bad != bad:
        model = odd_logits(model)
    message = said(opened(make_bundle, model, argmax="runtime", align_corners=False))
    assert (
        "logits that are not finite on frame drive_0001; restore the bundle from a copy" in message
    )


def odd_logits(model: bytes) -> bytes:
    """The model with its logits times 0/0, which no weight shows."""
    loaded = onnx.ModelProto.FromString(model)
    loaded.graph.node[-1].output[0] = "plain"
    loaded.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "zero"))
    loaded.graph.node.append(onnx.helper.make_node("Mul", ["plain", "zero"], ["none"]))
    loaded.graph.node.append(onnx.helper.make_node("Div", ["none", "zero"], ["logits"]))
    data: bytes = loaded.SerializeToString()
    return data


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("raw", [True, False])
def test_weights_that_are_nan_are_refused_at_opening_by_name(
    make_bundle: MakeBundle, tiny: Any, dtype: str, raw: bool
) -> None:
    weight = tiny.weight()
    weight[2, 1] = NAN
    model = onnx.ModelProto.FromString(tiny.onnx(32, 16, weight))
    values = weight[:, :, None, None]
    if dtype == "bfloat16":
        kept = (values.view(np.uint32) >> 16).astype(np.uint16)
        new = onnx.helper.make_tensor(
            "w", TensorProto.BFLOAT16, values.shape, kept.tobytes(), raw=True
        )
    else:
        new = numpy_helper.from_array(values.astype(dtype), "w")
    if dtype != "float32" or raw:  # make_tensor writes float_data
        model.graph.initializer[0].CopyFrom(new)
    with pytest.raises(EngineError, match=r"model\.onnx has 1 weight that is NaN \(w\)"):
        opened(make_bundle, model.SerializeToString())


def test_nan_behind_an_argmax_inside_the_graph_is_found_on_the_frame(
    make_bundle: MakeBundle, tiny: Any
) -> None:
    model = odd_graphs.scores(tiny.weight(), divide_by=0.0)
    message = said(opened(make_bundle, model))
    assert message.startswith("model.onnx gives logits that are not finite on frame drive_0001")


def test_an_honest_frame_of_one_class_is_looked_at_and_let_through(
    make_bundle: MakeBundle,
) -> None:
    weight = np.array([[1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    with opened(make_bundle, odd_graphs.scores(weight)) as engine:
        for _ in range(5):
            assert not engine.segment(FRAME).any()


def test_what_is_no_graph_is_left_to_who_loads_it() -> None:
    for content in (b"", b"no protobuf", bytes(range(256)), b"\x3a\xff\xff\xff\xff\x7f"):
        assert nan_weights(content) == []
        assert scores_are_finite(content, FRAME.image[None], 1) is None


# ---- graphs that never end -----------------------------------------------------------------------


def test_an_endless_graph_is_interrupted_from_another_thread(make_bundle: MakeBundle) -> None:
    with opened(make_bundle, odd_graphs.endless()) as engine:
        waiter = threading.Event()

        def interrupt_until_done() -> None:
            while not waiter.wait(0.02):
                assert engine.interrupt()

        helper = threading.Thread(target=interrupt_until_done)
        helper.start()
        try:
            with pytest.raises(EngineError, match="was interrupted on frame drive_0001"):
                engine.segment(FRAME)
        finally:
            waiter.set()
            helper.join()


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_an_endless_graph_in_the_main_thread(make_bundle: MakeBundle) -> None:
    with opened(make_bundle, odd_graphs.endless()) as engine:
        press = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        press.start()
        with pytest.raises(KeyboardInterrupt):
            engine.segment(FRAME)
        press.join()


def test_a_stop_ends_a_pipeline_whose_engine_never_answers(make_bundle: MakeBundle) -> None:
    with opened(make_bundle, odd_graphs.endless()) as engine:
        frames = [FRAME, FRAME]
        with (
            pytest.raises(EngineError, match=r"still at frame drive_0001 .* before it: 0 fr"),
            Pipeline(frames, engine, stop_when=lambda: True, patience_s=0.1) as pipeline,
        ):
            list(pipeline)


def test_closing_early_interrupts_an_engine_that_never_answers(make_bundle: MakeBundle) -> None:
    with opened(make_bundle, odd_graphs.endless()) as engine:
        asked = threading.Event()

        def stop() -> bool:
            asked.set()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(Pipeline([FRAME], engine, stop_when=stop))
        assert asked.is_set()


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A folder of thirty frames; the seventh is white."""
    (tmp_path / "drive").mkdir()
    for index in range(30):
        image = np.full_like(FRAME.image, 255) if index == 6 else FRAME.image
        cv2.imwrite(str(tmp_path / "drive" / f"{index:02d}.png"), image)
    return tmp_path / "drive"


def whole_frames(out: Path) -> int:
    """The frames that can be read of a folder of label maps, or of a video."""
    if out.is_dir():
        return sum(cv2.imread(str(path), -1) is not None for path in out.rglob("*.png"))
    capture = cv2.VideoCapture(str(out))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


@pytest.mark.parametrize("name", ["labels", "clip.mp4", "clip.mkv", "clip.avi"])
def test_a_second_signal_ends_a_run_at_once_and_keeps_what_was_written(
    make_bundle: MakeBundle, drive: Path, tmp_path: Path, name: str
) -> None:
    done = 0

    def second_signal() -> bool:
        if done >= 3:
            raise KeyboardInterrupt
        return False

    def report(frames: int, _: int) -> None:
        nonlocal done
        done = frames

    with (
        open_engine(make_bundle(), device="cpu", threads=1) as engine,
        pytest.raises(RunInterrupted, match=rf"second signal; \d+ frames are .* to .*{name}"),
    ):
        run_frames(
            open_frames(str(drive)),
            engine,
            tmp_path / name,
            stop_requested=second_signal,
            report=report,
        )
    assert whole_frames(tmp_path / name) >= 3


@pytest.mark.parametrize("name", ["labels", "clip.mp4"])
def test_a_frame_without_labels_ends_a_run_and_those_before_it_are_kept(
    make_bundle: MakeBundle, drive: Path, tmp_path: Path, name: str
) -> None:
    """A white frame has class 255."""
    bundle = make_bundle(models={"model.onnx": odd_graphs.least_as_label()})
    with (
        open_engine(bundle, device="cpu", threads=1) as engine,
        pytest.raises(EngineError, match=r"model\.onnx gives class 255 .* on frame 06; export"),
    ):
        run_frames(open_frames(str(drive)), engine, tmp_path / name)
    assert whole_frames(tmp_path / name) == 6
