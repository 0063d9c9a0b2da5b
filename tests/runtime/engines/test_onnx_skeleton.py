"""A graph without its weights: equal for the same network, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from roadshift.runtime.engines.onnx.skeleton import skeleton
from roadshift.runtime.engines.onnx.structure import StructureError

Change = Callable[[onnx.ModelProto], object]
SIZE = [1, 8, 16, 3]


def network(*, seed: int = 0, gamma: float | None = None, ends: str = "graph") -> onnx.ModelProto:
    """Two convolutions and a skip between the ends that an export makes."""
    rng = np.random.default_rng(seed)

    def drawn(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["x"], perm=[0, 3, 1, 2]),
    ]
    weights = [drawn("mean", 3, 1, 1), drawn("first", 4, 3, 1, 1), drawn("second", 4, 4, 1, 1)]
    if gamma is not None:
        nodes += [
            helper.make_node("Div", ["x", "full"], ["share"]),
            helper.make_node("Pow", ["share", "gamma"], ["power"]),
            helper.make_node("Mul", ["power", "full"], ["toned"]),
        ]
        weights += [
            numpy_helper.from_array(np.float32(value), name)
            for name, value in (("full", 255.0), ("gamma", gamma))
        ]
    nodes += [
        helper.make_node("Sub", ["toned" if gamma is not None else "x", "mean"], ["normal"]),
        helper.make_node("Conv", ["normal", "first"], ["one"], strides=[2, 2]),
        helper.make_node("Conv", ["one", "second"], ["two"]),
        helper.make_node("Add", ["one", "two"], ["sum"]),
        helper.make_node("Reshape", ["sum", "flat"], ["rows"]),
        helper.make_node("Reshape", ["rows", "back"], ["z"]),
    ]
    weights += [
        numpy_helper.from_array(np.array([4, -1]), "flat"),
        numpy_helper.from_array(np.array([1, 4, 4, 8]), "back"),
    ]
    if ends == "graph":
        how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        nodes += [
            helper.make_node("Resize", ["z", "", "", "full_size"], ["large"], **how),
            helper.make_node("ArgMax", ["large"], ["class"], axis=1, keepdims=0),
            helper.make_node("Cast", ["class"], ["labels"], to=TensorProto.UINT8),
        ]
        weights.append(numpy_helper.from_array(np.array([1, 4, 8, 16]), "full_size"))
        output = helper.make_tensor_value_info("labels", TensorProto.UINT8, SIZE[:3])
    else:
        nodes.append(helper.make_node("Cast", ["z"], ["logits"], to=TensorProto.FLOAT))
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4, 4, 8])
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, SIZE)
    graph = helper.make_graph(nodes, "net", [image], [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def of(model: onnx.ModelProto, align_corners: bool | None = None) -> str:
    return skeleton(model.SerializeToString(), align_corners)


EXPECTED = of(network())


def test_weights_and_what_an_export_chooses_by_itself_do_not_count() -> None:
    assert of(network(seed=1)) == EXPECTED
    assert of(network(gamma=0.7)) == of(network(gamma=0.4)) == EXPECTED
    assert of(network(ends="runtime"), align_corners=False) == EXPECTED
    assert of(network(seed=2, gamma=0.7, ends="runtime"), align_corners=False) == EXPECTED
    assert of(network(ends="runtime"), align_corners=True) != EXPECTED
    assert of(network(ends="runtime")) != EXPECTED  # the manifest does not say that it upsamples


def test_weights_that_are_equal_and_stored_once_do_not_count() -> None:
    """Exporters merge weights by their values, which another training changes."""

    def squares(merged: bool) -> onnx.ModelProto:
        model = network()
        weights = {weight.name: weight for weight in model.graph.initializer}
        weights["first"].CopyFrom(
            numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "first")
        )
        weights["second"].CopyFrom(
            numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "second")
        )
        if merged:
            model.graph.initializer.remove(weights["second"])
            model.graph.node[4].input[1] = "first"
        return model

    assert [node.op_type for node in squares(True).graph.node][4] == "Conv"
    assert of(squares(True)) == of(squares(False)) != EXPECTED


def test_names_order_and_notes_do_not_count() -> None:
    model = network()
    graph = model.graph
    for node in graph.node:
        node.name, node.doc_string = f"their {node.op_type}", "a note"
        node.input[:] = [f"v.{name}" if name not in ("image", "") else name for name in node.input]
        ends = ("labels",)
        node.output[:] = [f"v.{name}" if name not in ends else name for name in node.output]
    for weight in graph.initializer:
        weight.name = f"v.{weight.name}"
    moved = list(graph.initializer)[::-1]
    del graph.initializer[:]
    graph.initializer.extend(moved)
    model.producer_name = "another"
    model.metadata_props.add(key="note", value="mine")
    assert of(model) == EXPECTED


def node(model: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return next(one for one in model.graph.node if one.op_type == operator)


def weight(model: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    found = next(one for one in model.graph.initializer if one.name == name)
    found.CopyFrom(numpy_helper.from_array(array, name))


def renamed_image(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = node(model, "Cast").input[0] = "picture"


def other_attribute(model: onnx.ModelProto) -> None:
    node(model, "Conv").attribute[0].ints[:] = [1, 1]


def another_branch(model: onnx.ModelProto) -> None:
    again = helper.make_node("Conv", ["one", "second"], ["three"])
    model.graph.node.insert(6, again)
    node(model, "Add").input[0] = "three"


def tied(model: onnx.ModelProto) -> None:
    weight(model, "first", np.ones((4, 3, 1, 1), np.float32))
    copy = numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "third")
    model.graph.initializer.append(copy)
    model.graph.node.insert(6, helper.make_node("Conv", ["two", "third"], ["three"]))
    node(model, "Add").input[0] = "three"


def longer(model: onnx.ModelProto) -> None:
    model.graph.node.insert(6, helper.make_node("Relu", ["two"], ["three"]))
    node(model, "Add").input[1] = "three"


def upsampled_otherwise(model: onnx.ModelProto) -> None:
    for attribute in node(model, "Resize").attribute:
        if attribute.name == "mode":
            attribute.s = b"cubic"


@pytest.mark.parametrize(
    "change",
    [
        other_attribute,
        another_branch,
        tied,
        longer,
        upsampled_otherwise,
        lambda m: setattr(node(m, "Add"), "op_type", "Mul"),
        lambda m: setattr(node(m, "Add"), "domain", "com.theirs"),
        lambda m: node(m, "Add").input.reverse(),
        lambda m: node(m, "Add").input.__setitem__(1, "one"),
        lambda m: setattr(m.opset_import[0], "version", 19),
        lambda m: m.opset_import.add(domain="com.theirs", version=1),
        lambda m: weight(m, "first", np.ones((4, 3, 3, 3), np.float32)),
        lambda m: weight(m, "first", np.ones((4, 3, 1, 1), np.float64)),
        lambda m: weight(m, "flat", np.array([2, -1])),
        renamed_image,
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 9),
        lambda m: m.graph.output.add(name="z").type.CopyFrom(m.graph.output[0].type),
        lambda m: node(m, "ArgMax").attribute.append(helper.make_attribute("select_last_index", 1)),
    ],
)
def test_anything_else_does(change: Change) -> None:
    model = network()
    change(model)
    assert of_or_refused(model) != EXPECTED


def of_or_refused(model: onnx.ModelProto) -> str:
    try:
        return of(model)
    except StructureError as error:
        return str(error)


def test_floating_point_that_shapes_the_graph_counts() -> None:
    def scaled(factor: float) -> str:
        model = network(ends="runtime")
        scales = np.array([1, 1, factor, factor], np.float32)
        model.graph.initializer.append(numpy_helper.from_array(scales, "scales"))
        resize = helper.make_node("Resize", ["two", "", "scales"], ["larger"], mode="nearest")
        model.graph.node.insert(len(model.graph.node) - 4, resize)
        node(model, "Add").input[1] = "larger"
        return of(model, align_corners=False)

    assert scaled(1.0) == scaled(1.0) != scaled(2.0)


@pytest.mark.parametrize("at", ["Mul", "Div", "behind"])
def test_other_arithmetic_on_pixels_than_gamma_counts(at: str) -> None:
    model = network(gamma=0.7)
    if at == "behind":  # of what the first convolution makes
        node(model, "Conv").input[0], node(model, "Div").input[0] = "x", "one"
        node(model, "Sub").input[0] = "x"
    else:
        model.graph.initializer.append(numpy_helper.from_array(np.float32(254.0), "other"))
        node(model, at).input[1] = "other"
    assert of_or_refused(model) != EXPECTED


def with_a_subgraph(model: onnx.ModelProto) -> None:
    inner = onnx.GraphProto(name="inner")
    node(model, "Add").attribute.append(helper.make_attribute("body", inner))


def with_an_attribute_twice(model: onnx.ModelProto) -> None:
    attributes = node(model, "Conv").attribute
    attributes.append(attributes[0])


def without_inputs(model: onnx.ModelProto) -> None:
    del node(model, "ArgMax").input[:]


def set_input(model: onnx.ModelProto, operator: str, name: str) -> None:
    node(model, operator).input[0] = name


def set_output(model: onnx.ModelProto, operator: str, name: str) -> None:
    node(model, operator).output[0] = name


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.graph.node.append(helper.make_node("Relu", ["z"], ["u"])), "does not need"),
        (lambda m: m.graph.initializer.add(name="u", data_type=1), "which no node takes"),
        (lambda m: set_output(m, "Add", "one"), "makes 'one' twice"),
        (lambda m: m.functions.add(name="f"), "holds functions"),
        (lambda m: m.training_info.add().algorithm.SetInParent(), "holds training graphs"),
        (lambda m: m.graph.sparse_initializer.add().dims.append(1), "holds sparse weights"),
        (with_a_subgraph, "holds subgraphs"),
        (
            lambda m: node(m, "Conv").attribute.append(node(m, "Conv").attribute[0]),
            "two attributes",
        ),
        (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "two weights of the name"),
        (lambda m: set_input(m, "Sub", "sum"), "runs in a circle"),
        (lambda m: set_input(m, "Sub", "nowhere"), "which nothing makes"),
        (without_inputs, "takes or makes too little"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: Change, sentence: str) -> None:
    model = network()
    change(model)
    with pytest.raises(StructureError, match=sentence):
        of(model)


def test_a_field_that_is_there_twice_is_refused() -> None:
    content = network().SerializeToString()
    graph = network(seed=1).graph.SerializeToString()
    size, length = len(graph), b""
    while size >= 0x80:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    doubled = content + b"\x3a" + length + bytes([size]) + graph
    with pytest.raises(StructureError, match="holds a field twice"):
        skeleton(doubled, None)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_a_phrase_or_another_digest_and_never_another_exception(
    data: st.DataObject,
) -> None:
    content = bytearray(network().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        skeleton(bytes(content[: data.draw(st.integers(0, len(content)))]), None)
    except StructureError as error:
        assert str(error)  # noqa: PT017 - any other exception fails the test
