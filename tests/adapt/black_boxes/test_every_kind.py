"""One network through every kind of black box: the same numbers, or the same labels."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pixel_networks
import pytest
from answering_service import service
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from pixel_networks import MEAN, STD, K, logits_of, onnx_network, softmax, tflite_network
from roadshift.adapt.black_boxes import BlackBox, BoxWiring, checked_answer, open_black_box
from roadshift.adapt.black_boxes.registry import KINDS
from roadshift.adapt.workflows.adaptation import _within_budget
from roadshift.runtime.bundle import BundleWriter, InputSpec, NetworkSpec, Provenance
from roadshift.runtime.errors import EngineError
from roadshift.runtime.labels import LabelSpace

FOUR = LabelSpace(
    name="four", classes=("a", "b", "c", "d"), colours=tuple((i, i, i) for i in range(4))
)
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
WITHIN = BoxWiring(budgeted_s=6.0)  # as in every run with a time budget, which no kind may mind
PLAIN = replace(WITHIN, mean=MEAN, std=STD)
P = softmax(logits_of(IMAGE))
Open = Callable[[Path, pytest.MonkeyPatch], Iterator[BlackBox]]


def of_file(path: Path) -> BlackBox:
    return open_black_box(path, PLAIN, FOUR, lambda _: None)


def onnx(folder: Path, _: pytest.MonkeyPatch) -> Iterator[BlackBox]:
    (folder / "a.onnx").write_bytes(onnx_network())
    yield of_file(folder / "a.onnx")


def xml(folder: Path, _: pytest.MonkeyPatch) -> Iterator[BlackBox]:
    pixel_networks.write_openvino(folder / "a.xml")
    yield of_file(folder / "a.xml")


def tflite(folder: Path, _: pytest.MonkeyPatch) -> Iterator[BlackBox]:
    (folder / "a.tflite").write_bytes(tflite_network())
    yield of_file(folder / "a.tflite")


def http(_: Path, __: pytest.MonkeyPatch) -> Iterator[BlackBox]:
    def answer(image: NDArray[np.uint8]) -> tuple[str, bytes]:
        buffer = BytesIO()
        np.save(buffer, logits_of(image))
        return "application/x-npy", buffer.getvalue()

    with service(answer, {"label_space": FOUR.to_dict()}) as url:
        yield open_black_box(url, WITHIN, note=lambda _: None)


def folder(folder: Path, _: pytest.MonkeyPatch) -> Iterator[BlackBox]:
    np.save(folder / "frame.npy", P)
    yield open_black_box(folder, WITHIN)


def function(_: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlackBox]:
    module = types.ModuleType("a_model")
    module.ask = lambda image: softmax(logits_of(image))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_model", module)
    yield open_black_box("a_model:ask", WITHIN)


def bundle(folder: Path, _: pytest.MonkeyPatch) -> Iterator[BlackBox]:
    """A bundle's graph gives logits of uint8 images, and says so."""
    model = ModelProto.FromString(onnx_network(shape=(1, 16, 24, 3), input_type=TensorProto.UINT8))
    model.graph.output[0].name = model.graph.node[-1].output[0] = "logits"
    spec = InputSpec(width=24, height=16, mean=MEAN, std=STD)
    told = {"label_space": FOUR.to_dict(), "input": spec.model_dump(mode="json")}
    for key, value in told.items():
        model.metadata_props.add(key=f"roadshift.{key}", value=json.dumps(value))
    with BundleWriter(folder / "made") as writer:
        writer.add_bytes("model.onnx", model.SerializeToString(), kind="onnx")
        writer.commit(
            network=NetworkSpec(name="fast_scnn"),
            label_space=FOUR,
            input=spec,
            provenance=Provenance(),
        )
    yield open_black_box(folder / "made", WITHIN)


OPEN: dict[str, Open] = {
    ".onnx": onnx,
    ".xml": xml,
    ".tflite": tflite,
    "http:": http,
    "folder": folder,
    "function": function,
    "bundle": bundle,
}


def test_every_kind_is_tried() -> None:
    assert set(OPEN) == set(KINDS)


def test_a_time_budget_shortens_the_wait_and_chooses_nothing() -> None:
    within = _within_budget(BoxWiring(), 60.0)
    assert (within.timeout_s, within.settled()) == (6.0, {})
    assert _within_budget(BoxWiring(answer_timeout_s=2.0), 60.0).timeout_s == 2.0
    assert _within_budget(BoxWiring(), None).timeout_s == 60.0


@pytest.fixture(params=OPEN)
def black_box(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BlackBox]:
    yield from OPEN[request.param](tmp_path, monkeypatch)


def test_the_same_network_gives_the_same_numbers_through_every_door(black_box: BlackBox) -> None:
    for _ in range(2):  # and again after it was let go of
        answer = checked_answer(black_box.answer("frame", IMAGE.copy()), K, "here")
        assert np.abs(answer - P).max() < 1e-5
        black_box.close()
    assert len(black_box.identity) > 5
    assert black_box.lacks(["frame"]) == []


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_a_quantised_network_gives_nearly_the_same_numbers(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(tflite_network(quantised=kind))
    answer = of_file(tmp_path / "a.tflite").answer("frame", IMAGE)
    assert 0 < np.abs(answer - P).max() < 0.05  # the weights' steps are 8 / 127


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".tflite"])
def test_a_network_of_free_sides_sees_the_frame_as_it_is(suffix: str, tmp_path: Path) -> None:
    path, large = tmp_path / f"a{suffix}", np.asarray(cv2.resize(IMAGE, (40, 32)), np.uint8)
    if suffix == ".tflite":
        path.write_bytes(tflite_network(free=True))
    elif suffix == ".xml":
        pixel_networks.write_openvino(path, shape=("n", 3, "h", "w"))
    else:
        path.write_bytes(onnx_network(shape=("n", 3, "h", "w")))
    black_box = of_file(path)
    assert black_box.input is None
    for image in (IMAGE, large, IMAGE):
        answer = black_box.answer("frame", image)
        assert np.abs(answer - softmax(logits_of(image))).max() < 1e-5


def test_a_file_that_changed_while_it_was_asked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(onnx_network())
    black_box = of_file(tmp_path / "a.onnx")
    black_box.close()
    (tmp_path / "a.onnx").write_bytes(onnx_network(head="softmax"))
    with pytest.raises(EngineError, match=r"a\.onnx: was changed while it was asked"):
        black_box.answer("frame", IMAGE)
