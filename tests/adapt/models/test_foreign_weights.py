"""Weights, incumbents and black boxes of strangers, or exchanged while they are used.

CPU only, some seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from roadshift.adapt import Events, RunOptions, adapt_bundle, load_network
from roadshift.adapt.black_boxes import open_black_box
from roadshift.adapt.judging.judge import judge_bundles
from roadshift.adapt.models.importing import read_weights, save_weights
from roadshift.runtime.bundle import Bundle, InputSpec, open_bundle
from roadshift.runtime.errors import BundleError, EngineError, NetworkError

CPU = torch.device("cpu")
OWN = ["tiny_network"]


@pytest.fixture
def bundle(source: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the source bundle that may be spoiled."""
    return open_bundle(shutil.copytree(source.path, tmp_path / "mine"), allow_networks=OWN)


def listed(bundle: Bundle, name: str, content: bytes) -> Bundle:
    """The bundle with these bytes as its weights, and a manifest that lists them."""
    (bundle.path / "model.safetensors").unlink()
    (bundle.path / name).write_bytes(content)
    file = bundle.path / "manifest.json"
    manifest = json.loads(file.read_text())
    digest = hashlib.sha256(content).hexdigest()
    manifest["artefacts"][0] |= {"path": name, "sha256": digest, "bytes": len(content)}
    file.write_text(json.dumps(manifest))
    return open_bundle(bundle.path, allow_networks=OWN)


# ---- weights -----------------------------------------------------------------------------------


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.pkl", "model.safetensors"])
@pytest.mark.parametrize("plain", [False, True], ids=["pickle", "torch.save"])
def test_weights_of_a_bundle_are_never_unpickled(
    name: str, plain: bool, bundle: Bundle, tmp_path: Path
) -> None:
    trace = tmp_path / "ran"
    content = pickle.dumps(Evil(trace))
    if plain:  # not even where nothing would run
        torch.save(load_network(bundle, CPU).state_dict(), tmp_path / "state.pth")
        content = (tmp_path / "state.pth").read_bytes()
    with pytest.raises(NetworkError, match="not a readable safetensors file"):
        load_network(listed(bundle, name, content), CPU)
    assert not trace.exists()


def tensor_file(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


HEADERS: dict[str, object] = {
    "beyond the end": {"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}},
    "negative": {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
    "overlapping": {
        "v": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]},
        "w": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]},
    },
    "unknown type": {"w": {"dtype": "F4", "shape": [16], "data_offsets": [0, 64]}},
    "another type": {"w": {"dtype": "F8_E8M0", "shape": [64], "data_offsets": [0, 64]}},
    "no object": [1, 2, 3],
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_hostile_header_of_weights_is_refused(header: str, bundle: Bundle) -> None:
    with pytest.raises(NetworkError, match=r"model\.safetensors: "):
        load_network(listed(bundle, "model.safetensors", tensor_file(HEADERS[header])), CPU)


@settings(max_examples=100, deadline=None)
@given(
    place=st.integers(0, 10_000),
    byte=st.integers(0, 255),
    cut=st.none() | st.integers(0, 10_000),
)
def test_damaged_weights_are_read_or_refused(
    place: int, byte: int, cut: int | None, network: Callable[..., Any]
) -> None:
    content = bytearray(save_weights(network()))
    header = 8 + int.from_bytes(content[:8], "little")
    content[place % header] = byte
    try:
        tensors = read_weights(bytes(content[: cut and cut % len(content)]), "file")
    except NetworkError as error:
        assert str(error).startswith("file: ")  # noqa: PT017 - any other exception fails the test
        return
    assert all(isinstance(value, torch.Tensor) for value in tensors.values())


# ---- exchanged while they are used -------------------------------------------------------------


def exchange(bundle: Bundle) -> None:
    """Other weights of the same size under the same name, as a well-meant update does it."""
    file = bundle.path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x80  # the sign of a number
    file.with_suffix(".new").write_bytes(content)
    file.with_suffix(".new").replace(file)


def remove(bundle: Bundle) -> None:
    shutil.rmtree(bundle.path)


@pytest.mark.parametrize("change", [exchange, remove])
def test_weights_that_changed_after_the_bundle_was_opened_are_refused(
    change: Callable[[Bundle], None], bundle: Bundle, frames_dir: Path
) -> None:
    change(bundle)
    with pytest.raises(BundleError, match=r"model\.safetensors: (was changed|cannot be read)"):
        load_network(bundle, CPU)
    manifest = bundle.manifest.model_copy(update={"input": brighter(bundle)})
    other = replace(bundle, manifest=manifest)
    for pair in ((bundle, other), (other, bundle)):
        with pytest.raises(BundleError):
            judge_bundles(*pair, [frames_dir], device="cpu")


def brighter(bundle: Bundle) -> InputSpec:
    """Another input than the bundle's own."""
    return bundle.manifest.input.model_copy(update={"gamma": 0.9})


@pytest.mark.parametrize("change", [exchange, remove])
def test_an_incumbent_that_changes_during_a_run_means_ask_and_the_result_is_kept(
    change: Callable[[Bundle], None],
    bundle: Bundle,
    recording: Path,
    settings: Callable[..., Any],
    tmp_path: Path,
) -> None:
    changed: list[bool] = []

    def report(_: object) -> None:
        if not changed:
            change(bundle)
            changed.append(True)

    job = RunOptions(tmp_path / "out", device="cpu", events=Events(report=report))
    adapted = adapt_bundle(bundle, [recording], settings("training.steps=2"), job, gated=True)
    verdict = adapted.manifest.verdict
    assert changed
    assert verdict is not None
    assert verdict.decision == "ask"
    assert "The incumbent changed while the run went on, and nothing was judged" in verdict.sentence
    assert verdict.incumbent == adapted.manifest.provenance.parent == bundle.hash
    load_network(open_bundle(adapted.path, allow_networks=OWN), CPU)


# ---- black boxes -------------------------------------------------------------------------------


def black_box_model(said: Mapping[str, str] | None = None, *, external: bool = False) -> bytes:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], np.ones(1))
    if external:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="side.bin")
    inner = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["z"])],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])],
        [weight],
    )
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["labels"], then_branch=inner, else_branch=inner)],
        "g",
        [],
        [helper.make_tensor_value_info("labels", TensorProto.FLOAT, [1])],
        [condition],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    for key, value in (said or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"roadshift.{key}", value
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("where", ["a file", "a bundle"])
def test_a_black_box_reads_no_other_file(
    where: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = black_box_model(external=True)
    folder = tmp_path if where == "a file" else bundle.path
    (folder / "model.onnx").write_bytes(content)
    (folder / "side.bin").write_bytes(np.ones(1, np.float32).tobytes())
    monkeypatch.chdir(folder)
    path = folder / "model.onnx"
    if where == "a bundle":
        path = bundle.path
        manifest = json.loads((path / "manifest.json").read_text())
        listed_as = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        manifest["artefacts"].append({"path": "model.onnx", "kind": "onnx", **listed_as})
        (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineError, match="lie in another file, which no hash covers"):
        open_black_box(str(path))


SAID = {
    "deep": "[" * 100_000,
    "long": '{"name": ' + "1" * 5000 + "}",
    "no space": "{}",
    "no JSON": "\\",
    "a number": "3",
}


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("key", ["label_space", "input"])
def test_what_a_black_box_says_of_itself_is_checked(said: str, key: str, tmp_path: Path) -> None:
    from roadshift.runtime.labels import label_space

    good = {
        "label_space": json.dumps(label_space("camvid11").to_dict()),
        "input": json.dumps({"width": 8, "height": 8, "mean": [0, 0, 0], "std": [1, 1, 1]}),
    }
    file = tmp_path / "model.onnx"
    file.write_bytes(black_box_model({**good, key: SAID[said]}))
    with pytest.raises(EngineError, match="what it says of its input and label space is malformed"):
        open_black_box(str(file))


def test_a_pipe_as_a_black_box_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(EngineError, match="is a named pipe, not a regular file"):
        open_black_box(str(tmp_path / "model.onnx"))


def test_the_models_of_this_file_are_what_they_seem() -> None:
    onnx.checker.check_model(onnx.ModelProto.FromString(black_box_model()))
