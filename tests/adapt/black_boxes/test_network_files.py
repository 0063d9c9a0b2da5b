"""Networks in files as anyone publishes them: shapes, layouts, types, heads, refusals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted_tflite import converted
from onnx import TensorProto
from pixel_networks import (
    MEAN,
    STD,
    B,
    K,
    W,
    logits_of,
    onnx_network,
    softmax,
    tflite_network,
    write_openvino,
)
from roadshift.adapt.black_boxes import Answer, BlackBox, BoxWiring, checked_answer, open_black_box
from roadshift.runtime.errors import (
    ConfigError,
    EngineError,
    LabelError,
    MissingDependencyError,
    RoadshiftError,
)
from roadshift.runtime.labels import LabelSpace

IMAGE = np.random.default_rng(1).integers(0, 256, (16, 24, 3), np.uint8)
P = softmax(logits_of(IMAGE))


def space_of(num_classes: int) -> LabelSpace:
    return LabelSpace(
        name=f"of {num_classes}",
        classes=tuple(f"class {i}" for i in range(num_classes)),
        colours=tuple((i, i, i) for i in range(num_classes)),
    )


def opened(folder: Path, content: bytes, classes: int = K, **wiring: Any) -> BlackBox:
    path = folder / "box.onnx"
    path.write_bytes(content)
    given = {"mean": MEAN, "std": STD, **wiring}
    return open_black_box(path, BoxWiring(**given), space_of(classes), lambda _: None)


def asked(folder: Path, content: bytes, classes: int = K, **wiring: Any) -> Answer:
    answer = opened(folder, content, classes, **wiring).answer("frame", IMAGE.copy())
    return checked_answer(answer, classes, "here")


# --- the image ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        (1, 3, 16, 24),
        ("n", 3, 16, 24),
        (1, 3, "h", "w"),
        (1, 3, "h", 24),
        (1, 3, 16, "w"),
        ("n", 3, "h", "w"),
        ("n", "c", "h", "w"),
        (3, 3, 16, 24),
        (3, 16, 24),
        (1, 16, 24, 3),
        ("n", "h", "w", 3),
        (2, "h", 24, 3),
    ],
    ids=str,
)
def test_an_image_goes_in_at_any_shape(shape: tuple[int | str, ...], tmp_path: Path) -> None:
    box = opened(tmp_path, onnx_network(shape=shape))
    fixed = shape[-2:] == (16, 24) or shape[1:3] == (16, 24)
    assert (box.input is not None) == fixed
    if box.input is not None:
        assert (box.input.width, box.input.height) == (24, 16)
    assert np.abs(box.answer("frame", IMAGE) - P).max() < 1e-5


def test_a_larger_frame_is_fitted_to_the_sides_that_are_fixed(tmp_path: Path) -> None:
    large = np.full((32, 48, 3), 90, np.uint8)
    sizes = {(1, 3, 16, 24): (16, 24), (1, 3, "h", 24): (32, 24), ("n", 3, "h", "w"): (32, 48)}
    for shape, size in sizes.items():
        assert opened(tmp_path, onnx_network(shape=shape)).answer("f", large).shape == (K, *size)


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8], ids=str
)
def test_an_image_goes_in_as_floats_or_raw_pixels(kind: int, tmp_path: Path) -> None:
    raw = {"mean": None, "std": None} if kind == TensorProto.UINT8 else {}
    answer = asked(tmp_path, onnx_network(input_type=kind), **raw)
    assert np.abs(answer - P).max() < (5e-3 if kind == TensorProto.FLOAT16 else 1e-5)


def test_preprocessing_is_that_of_import(tmp_path: Path) -> None:
    """(x - mean) / std in 0-255 units, in the order of the colour."""
    mean, std = (10.0, 20.0, 30.0), (100.0, 200.0, 50.0)
    seen = (IMAGE[..., ::-1].astype(np.float32) - mean) / std
    z = np.einsum("kc,hwc->khw", W, seen) + B[:, None, None]
    answer = asked(tmp_path, onnx_network(), mean=mean, std=std, colour="bgr")
    assert np.abs(answer - softmax(z.astype(np.float32))).max() < 1e-5
    raw = onnx_network(input_type=TensorProto.UINT8)
    backwards = asked(tmp_path, raw, mean=None, std=None, colour="bgr")
    assert np.abs(backwards - softmax(logits_of(IMAGE[..., ::-1]))).max() < 1e-5


def test_preprocessing_that_is_assumed_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "box.onnx").write_bytes(onnx_network())
    open_black_box(tmp_path / "box.onnx", BoxWiring(), space_of(K), said.append)
    assert "less 123.675,116.28,103.53, divided by 58.395,57.12,57.375" in said[0]
    assert "give mean, std and colour" in said[0]
    open_black_box(tmp_path / "box.onnx", BoxWiring(mean=MEAN, std=STD), space_of(K), said.append)
    assert said[1].endswith("divided by 255,255,255")


# --- the answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("head", ["logits", "softmax"])
@pytest.mark.parametrize("stride", [1, 2])
def test_logits_and_probabilities_are_told_apart(
    head: str, channels_last: bool, stride: int, tmp_path: Path
) -> None:
    said: list[str] = []
    content = onnx_network(head=head, channels_last_out=channels_last, stride=stride)
    (tmp_path / "box.onnx").write_bytes(content)
    box = open_black_box(
        tmp_path / "box.onnx", BoxWiring(mean=MEAN, std=STD), space_of(K), said.append
    )
    answer = checked_answer(box.answer("frame", IMAGE), K, "here")
    assert np.abs(answer - P[:, ::stride, ::stride]).max() < 1e-5
    box.answer("frame", IMAGE)
    holds = "logits" if head == "logits" else "probabilities"
    assert [s for s in said if "holds" in s] == [
        f"{tmp_path / 'box.onnx'}: output 'out': holds {holds}"
    ]


@pytest.mark.parametrize(
    "kind", [None, TensorProto.UINT8, TensorProto.INT32, TensorProto.INT8], ids=str
)
def test_classes_of_any_integer_are_an_answer(kind: int | None, tmp_path: Path) -> None:
    answer = asked(tmp_path, onnx_network(head="argmax", output_type=kind))
    assert answer.dtype == np.uint8
    assert np.array_equal(answer, P.argmax(axis=0))


def test_classes_as_floats_are_taken_where_they_are_said_to_be(tmp_path: Path) -> None:
    floats = onnx_network(head="argmax", output_type=TensorProto.FLOAT)
    assert np.array_equal(asked(tmp_path, floats, answers="classes"), P.argmax(axis=0))
    with pytest.raises(LabelError, match=r"gives float32 numbers .* and classes were expected"):
        asked(tmp_path, onnx_network(), answers="classes")


@pytest.mark.parametrize("head", ["logits", "sigmoid"])
def test_one_channel_is_the_second_of_two_classes(head: str, tmp_path: Path) -> None:
    content = onnx_network(head=head, weights=W[:1])
    z = logits_of(IMAGE, W[:1])[0]
    p = 1 / (1 + np.exp(-z))
    answer = asked(tmp_path, content, classes=2)
    assert np.abs(answer - np.stack([1 - p, p])).max() < 1e-5


def test_float16_answers_are_read(tmp_path: Path) -> None:
    answer = asked(tmp_path, onnx_network(head="softmax", output_type=TensorProto.FLOAT16))
    assert np.abs(answer - P).max() < 1e-3


# --- several outputs -----------------------------------------------------------------------------


def test_an_output_is_chosen_by_name_or_by_number(tmp_path: Path) -> None:
    content = onnx_network(outputs=3)
    for given in ("out2", "2", 2):
        answer = asked(tmp_path, content, output=given)
        z = np.einsum("kc,hwc->khw", np.roll(W, 2, 0), IMAGE.astype(np.float32) / 255)
        z = z + np.roll(B, 2)[:, None, None]
        assert np.abs(answer - softmax(z)).max() < 1e-5


def test_outputs_are_listed_where_it_is_not_clear_which_one_answers(tmp_path: Path) -> None:
    listed = r"'out0' float32 \(1, 4, 16, 24\), 'out1' float32 \(1, 4, 16, 24\)"
    with pytest.raises(ConfigError, match=rf"has the outputs {listed}; say with output which"):
        opened(tmp_path, onnx_network(outputs=2))
    for given in ("out", "2", "-1"):
        with pytest.raises(ConfigError, match=rf"^output '{given}': .*{listed}; give a name or a"):
            opened(tmp_path, onnx_network(outputs=2), output=given)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "classes", "wiring", "error", "words"),
    [
        (onnx_network(), 19, {}, ConfigError, r"has 4 channels, and of 19 has 19 classes; give"),
        (onnx_network(), 3, {}, ConfigError, "has 4 channels, and of 3 has 3 classes"),
        (onnx_network(shape=("n", 3, "h", "w")), 19, {}, ConfigError, r"4, \?, \?\) has 4 ch"),
        (onnx_network(weights=W[:1]), 4, {}, ConfigError, "a single channel has two"),
        (onnx_network(shape=(1, 3, 16, 24), head="nan"), 4, {}, LabelError,
         r"gives 1,536 numbers of 1,536 that are not finite on frame frame"),
        (onnx_network(head="sigmoid"), 4, {}, LabelError,
         "do not sum to 1 over the classes.*give answers='logits'"),
        (onnx_network(), 4, {"answers": "probabilities"}, LabelError,
         "gives float32 numbers from .* probabilities were expected"),
        (onnx_network(head="argmax"), 4, {"answers": "logits"}, LabelError,
         "gives int64 numbers from 0 to 3 .* logits were expected"),
        (onnx_network(head="argmax"), 3, {}, LabelError, r"has the classes \[3\], and the label"),
        (onnx_network(input_type=TensorProto.UINT8), 4, {}, ConfigError,
         "^mean: .* takes uint8 pixels, which it normalises itself"),
        (b"no network", 4, {}, EngineError, "is not a model that ONNX Runtime can run"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_a_sentence(
    content: bytes,
    classes: int,
    wiring: dict[str, Any],
    error: type[RoadshiftError],
    words: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=words):
        asked(tmp_path, content, classes, **wiring)


def test_a_file_needs_a_label_space(tmp_path: Path) -> None:
    (tmp_path / "box.onnx").write_bytes(onnx_network())
    with pytest.raises(ConfigError, match=r"give label_space \(its outputs are 'out' float32"):
        open_black_box(tmp_path / "box.onnx")


def test_a_network_that_fails_at_this_size_says_how_to_give_another(tmp_path: Path) -> None:
    from onnx import ModelProto, helper

    model = ModelProto.FromString(onnx_network(shape=(1, 3, "h", "w")))
    shape = helper.make_tensor("s", TensorProto.INT64, [4], [1, K, 8, 12])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["s"], value=shape))
    model.graph.node[-1].op_type = "Reshape"
    model.graph.node[-1].input.append("s")
    with pytest.raises(EngineError, match=r"on frame frame; .* 24x16, give another input_size"):
        asked(tmp_path, model.SerializeToString())


@pytest.mark.parametrize("name", ["colour", "answers"])
def test_wiring_is_checked_when_it_is_made(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} 'green' is none of "):
        BoxWiring(**{name: "green"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("a.xml", "openvino", "openvino"), ("a.tflite", "ai_edge_litert", "tflite")],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    name: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"\0\0\0\0TFL3")
    monkeypatch.setitem(sys.modules, package, None)
    for other in ("ai_edge_litert", "tflite_runtime", "tensorflow"):
        monkeypatch.setitem(sys.modules, other, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'roadshift\[{extra}\]'"):
        open_black_box(tmp_path / name, BoxWiring(), space_of(K))


@pytest.mark.parametrize(("kind", "largest"), [("float", 1e-5), ("int8", 0.05)])
def test_files_of_tensorflows_own_converter(kind: str, largest: float, tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(converted(kind))
    box = open_black_box(path, BoxWiring(mean=MEAN, std=STD), space_of(K), lambda _: None)
    answer = checked_answer(box.answer("frame", IMAGE.copy()), K, "here")
    assert abs(answer - P).max() < largest
    assert np.mean(answer.argmax(0) == P.argmax(0)) > 0.97


@pytest.mark.parametrize("cut", [0, 3, 100, 400, -10])
def test_a_damaged_tflite_file_is_a_sentence(cut: int, tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(tflite_network()[:cut])
    with pytest.raises(EngineError, match=r"a\.tflite: (is no Tensor|cannot be loaded by Tensor)"):
        open_black_box(tmp_path / "a.tflite", BoxWiring(), space_of(K))


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "cut graph", "no graph"])
def test_a_damaged_openvino_model_is_a_sentence(damage: str, tmp_path: Path) -> None:
    path, weights = tmp_path / "a.xml", tmp_path / "a.bin"
    if damage == "no graph":
        with pytest.raises(EngineError, match=r"a\.xml: cannot be read \(No such file"):
            open_black_box(path, BoxWiring(), space_of(K))
        return
    write_openvino(path)
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:5])
    else:
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(EngineError, match=r"a\.xml: cannot be loaded by OpenVINO \(.*weights in a"):
        open_black_box(path, BoxWiring(), space_of(K))
