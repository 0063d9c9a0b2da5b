"""ONNX files as black boxes that fail while running, answer nothing, or never end."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import odd_graphs
import onnx
import pytest
from roadshift.adapt.black_boxes import BlackBox, open_black_box
from roadshift.runtime.bundle import InputSpec
from roadshift.runtime.errors import EngineError
from roadshift.runtime.labels import label_space

IMAGE = np.full((16, 32, 3), 7, np.uint8)


def black_box(path: Path, model: bytes) -> BlackBox:
    """The graph with the metadata that an export writes."""
    loaded = onnx.ModelProto.FromString(model)
    spec = InputSpec(width=32, height=16, mean=(0, 0, 0), std=(1, 1, 1))
    told = {
        "roadshift.label_space": json.dumps(label_space("camvid11").to_dict()),
        "roadshift.input": spec.model_dump_json(),
    }
    for key, value in told.items():
        loaded.metadata_props.add(key=key, value=value)
    onnx.save(loaded, path)
    return open_black_box(str(path))


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ([1, 0, 32], r"gives uint8 \(1, 0, 32\) on frame drive and no labels \(1, h, w\)"),
        ([0, 16, 32], r"gives uint8 \(0, 16, 32\) on frame drive"),
        ([1, -3, 32], r"fails while running \(.*\) on frame drive"),
        ([1 << 20, 1 << 20, 1 << 20], r"fails while running \(.*\) on frame drive"),
    ],
)
def test_an_answer_that_is_none_is_a_sentence(
    tmp_path: Path, shape: list[int], sentence: str
) -> None:
    asked = black_box(tmp_path / "box.onnx", odd_graphs.filled(shape))
    with pytest.raises(EngineError, match=rf"box\.onnx: {sentence.replace(' and', ', and')}"):
        asked.answer("drive", IMAGE)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_a_black_box_that_never_answers(tmp_path: Path) -> None:
    asked = black_box(tmp_path / "box.onnx", odd_graphs.endless())
    press = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    press.start()
    with pytest.raises(KeyboardInterrupt):
        asked.answer("drive", IMAGE)
    press.join()
