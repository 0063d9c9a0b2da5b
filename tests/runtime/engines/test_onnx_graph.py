"""Models that need more than their own bytes: found wherever the tensor hides, without ``onnx``.

CPU only, a few seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper
from roadshift.cli import app
from roadshift.runtime.bundle import Bundle, open_bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.engines.onnx.graph import _MESSAGES, model_problem
from roadshift.runtime.errors import BundleError, EngineError
from typer.testing import CliRunner

MakeBundle = Callable[..., Bundle]
NAMES = {"Training": "TrainingInfo"}


def descriptor(message: str) -> Any:
    return getattr(onnx, f"{NAMES.get(message, message)}Proto").DESCRIPTOR


def test_the_table_is_every_path_of_onnx_to_a_tensor() -> None:
    leads = {descriptor("Tensor").full_name}
    messages = [getattr(onnx, name).DESCRIPTOR for name in dir(onnx) if name.endswith("Proto")]
    while True:  # grows until nothing more leads to a tensor
        more = {
            one.full_name
            for one in messages
            if any(f.message_type and f.message_type.full_name in leads for f in one.fields)
        }
        if more <= leads:
            break
        leads |= more
    reached = {
        message: {
            field.number: field.message_type.full_name
            for field in descriptor(message).fields
            if field.message_type and field.message_type.full_name in leads
        }
        for message in _MESSAGES
    }
    ours = {
        message: {number: descriptor(inner).full_name for number, inner in fields.items()}
        for message, fields in _MESSAGES.items()
    }
    assert ours == reached


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def plain() -> TensorProto:
    return helper.make_tensor("w", TensorProto.FLOAT, [4], np.zeros(4))


def sparse(tensor: TensorProto) -> onnx.SparseTensorProto:
    indices = helper.make_tensor("i", TensorProto.INT64, [4], range(4))
    return helper.make_sparse_tensor(tensor, indices, [9])


def graph(nodes: Any = (), tensors: Any = (), sparse_tensors: Any = ()) -> onnx.GraphProto:
    made = helper.make_graph(list(nodes), "g", [], [], list(tensors))
    made.sparse_initializer.extend(sparse_tensors)
    return made


def node(**attributes: Any) -> onnx.NodeProto:
    made = helper.make_node("Anything", ["x"], ["y"])
    made.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return made


def function(tensor: TensorProto) -> onnx.FunctionProto:
    return helper.make_function(
        "own", "f", ["x"], ["y"], [node(value=tensor)], [helper.make_opsetid("", 18)]
    )


def trained(tensor: TensorProto) -> onnx.ModelProto:
    made = helper.make_model(graph())
    made.training_info.add().algorithm.CopyFrom(graph(tensors=[tensor]))
    return made


HIDING = {
    "initializer": lambda t: helper.make_model(graph(tensors=[t])),
    "second initializer": lambda t: helper.make_model(graph(tensors=[plain(), t])),
    "sparse initializer": lambda t: helper.make_model(graph(sparse_tensors=[sparse(t)])),
    "constant": lambda t: helper.make_model(graph([node(value=t)])),
    "list": lambda t: helper.make_model(graph([node(values=[plain(), t])])),
    "sparse constant": lambda t: helper.make_model(graph([node(value=sparse(t))])),
    "subgraph": lambda t: helper.make_model(graph([node(body=graph(tensors=[t]))])),
    "list of subgraphs": lambda t: helper.make_model(
        graph([node(bodies=[graph(), graph([node(value=t)])])])
    ),
    "function": lambda t: helper.make_model(graph(), functions=[function(t)]),
    "training": trained,
}
LOCATIONS = ["side.bin", "/etc/passwd", "../side.bin", "*/_ORT_MEM_ADDR_/*", ""]


@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize("location", LOCATIONS)
def test_a_tensor_in_another_file_is_found(hiding: str, location: str) -> None:
    make = HIDING[hiding]
    assert model_problem(make(plain()).SerializeToString()) is None
    problem = model_problem(make(external(location)).SerializeToString())
    assert problem == "its weights lie in another file, which no hash covers"


def test_info_says_that_a_model_will_be_refused(make_bundle: MakeBundle) -> None:
    model = helper.make_model(graph(tensors=[external("side.bin")])).SerializeToString()
    bundle = make_bundle(models={"model.onnx": model})
    for options in ([], ["--json"]):
        done = CliRunner().invoke(app, ["info", str(bundle.path), *options])
        assert done.exit_code == 0
        told = " ".join(done.stderr.split())
        assert "model.onnx cannot be loaded by ONNX Runtime (its weights lie in another" in told
    whole = CliRunner().invoke(app, ["info", str(make_bundle("whole").path)])
    assert "cannot be loaded" not in whole.stderr


@pytest.mark.parametrize("how", ["location alone", "entries alone"])
def test_either_mark_of_a_tensor_in_another_file_is_enough(how: str) -> None:
    tensor = external("side.bin")
    tensor.ClearField("external_data" if how == "location alone" else "data_location")
    assert model_problem(helper.make_model(graph(tensors=[tensor])).SerializeToString())


@given(depth=st.integers(1, 30))
def test_a_tensor_is_found_however_deep(depth: int) -> None:
    def nested(tensor: TensorProto) -> bytes:
        inner = graph(tensors=[tensor])
        for _ in range(depth):
            inner = graph([node(body=inner)])
        return bytes(helper.make_model(inner).SerializeToString())

    assert model_problem(nested(plain())) is None
    assert model_problem(nested(external("side.bin"))) is not None


def test_a_graph_in_two_pieces_is_one_graph() -> None:
    """Protobuf joins messages of one field, so every piece must be looked at."""
    first = helper.make_model(graph()).SerializeToString()
    second = onnx.ModelProto(graph=graph(tensors=[external("side.bin")])).SerializeToString()
    assert onnx.ModelProto.FromString(first + second).graph.initializer[0].data_location == 1
    assert model_problem(first + second) is not None


def test_a_compiled_engine_is_refused() -> None:
    compiled = helper.make_node("EPContext", [], ["y"], domain="com.microsoft", embed_mode=1)
    for nodes in ([compiled], [node(body=graph([compiled]))]):
        content = helper.make_model(graph(nodes)).SerializeToString()
        assert "native code" in str(model_problem(content))


def test_a_field_number_written_beyond_32_bits_is_still_that_field() -> None:
    content = onnx.ModelProto(graph=graph(tensors=[external("s")])).SerializeToString()
    key = content[0]
    assert key == 7 << 3 | 2
    longer = bytes([key | 0x80, 0x80, 0x80, 0x80, 0x70]) + content[1:]  # bits 32 to 34 set
    assert model_problem(longer) is not None


@settings(deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(content: bytes) -> None:
    assert isinstance(model_problem(content), str | None)


@settings(deadline=None)
@given(data=st.data())
def test_a_damaged_model_is_never_taken_for_a_self_contained_one(data: st.DataObject) -> None:
    """Protobuf, if it reads the bytes itself, agrees on whether a tensor lies elsewhere."""
    content = bytearray(HIDING["subgraph"](external("s")).SerializeToString())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    try:
        read = onnx.ModelProto.FromString(bytes(content))
    except Exception:  # protobuf's own
        return
    if any(t.data_location or t.external_data for t in tensors_of(read.graph)):
        assert model_problem(bytes(content)) is not None


def tensors_of(part: onnx.GraphProto) -> list[TensorProto]:
    found = list(part.initializer)
    for one in part.node:
        for attribute in one.attribute:
            assert isinstance(attribute, AttributeProto)
            found += [attribute.t, *attribute.tensors, *tensors_of(attribute.g)]
    return found


# ---- a bundle ---------------------------------------------------------------------------------


def with_side_file(content: bytes, folder: Path) -> bytes:
    """The model with its weight moved to ``side.bin``."""
    model = onnx.ModelProto.FromString(content)
    weight = model.graph.initializer[0]
    (folder / "side.bin").write_bytes(np.asarray(weight.float_data, np.float32).tobytes())
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="side.bin")
    return bytes(model.SerializeToString())


def test_a_bundle_whose_model_needs_a_side_file_does_not_open(
    make_bundle: MakeBundle, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = with_side_file(tiny.onnx(32, 16, tiny.weight()), tmp_path)
    bundle = make_bundle(models={"model.onnx": content})
    (tmp_path / "side.bin").rename(bundle.path / "side.bin")
    for folder in (tmp_path, bundle.path):
        monkeypatch.chdir(folder)
        with pytest.raises(EngineError, match="lie in another file, which no hash covers"):
            open_engine(open_bundle(bundle.path), device="cpu")


def test_a_model_that_was_exchanged_after_the_bundle_was_opened_does_not_run(
    make_bundle: MakeBundle, tiny: Any
) -> None:
    bundle = make_bundle()
    file = bundle.path / "model.onnx"
    other = tiny.onnx(32, 16, -tiny.weight())
    assert len(other) == file.stat().st_size
    file.write_bytes(other)
    with pytest.raises(BundleError, match=r"model\.onnx: was changed after it was written"):
        open_engine(bundle, device="cpu")
    file.unlink()
    with pytest.raises(BundleError, match=r"model\.onnx: cannot be read"):
        open_engine(bundle, device="cpu")
