"""FP16 and BF16: what is lowered and what is not, values rounded as a GPU does, and the floors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from export_cases import RGB, SCENES, frames_of, stays_as_it_is, write_source
from onnx import TensorProto, helper, numpy_helper
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.export import onnx as exporting
from roadshift.export.artefacts import export_bundle, export_onnx
from roadshift.export.data_splits import EvaluationData
from roadshift.export.judge import Floors
from roadshift.export.precision import to_half
from roadshift.export.rounding import RoundedEngine
from roadshift.runtime.bundle import Bundle, NetworkSpec, open_bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import ConfigError, EngineError, ParityError
from roadshift.runtime.frames.images import write_image

TINY = NetworkSpec(name="tiny_network:build")
TYPE = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The user's network in fp32, fp16 and bf16, with logits."""
    bundle = write_source(tmp_path_factory.mktemp("half") / "bundle", TINY)
    return export_onnx(bundle, SCENES, precisions=("fp32", "fp16", "bf16"), with_logits=True)


def graph_of(bundle: Bundle, name: str) -> onnx.ModelProto:
    return onnx.load(bundle.path / name)


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    return {
        **{value.name: value.type.tensor_type.elem_type for value in values},
        **{weight.name: weight.data_type for weight in model.graph.initializer},
    }


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, exported: Bundle) -> None:
    """Tracing again, which takes seconds, gives what ``exported`` was made of."""
    model = onnx.load(exported.path / "model.onnx")

    def write_graph(_: object, __: Bundle, path: Path, **___: object) -> onnx.ModelProto:
        onnx.save(model, path)
        return model

    monkeypatch.setattr(exporting, "write_graph", write_graph)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_network_is_lowered_and_its_two_ends_stay_float32(
    exported: Bundle, precision: str
) -> None:
    model = graph_of(exported, f"model-{precision}.onnx")
    types = types_of(model)
    for node in model.graph.node:
        kinds = {types[name] for name in node.input if name} & {TensorProto.FLOAT, TYPE[precision]}
        if node.op_type in ("Conv", "Relu"):
            assert kinds == {TYPE[precision]}, node.name
        elif node.op_type in ("Sub", "Div", "Pow", "Resize", "ArgMax"):
            assert kinds == {TensorProto.FLOAT}, node.name
    assert {node.op_type for node in model.graph.node} >= {"Conv", "Relu", "Resize", "ArgMax"}
    assert [(o.name, types[o.name]) for o in model.graph.output] == [
        ("labels", TensorProto.UINT8),
        ("logits", TensorProto.FLOAT),
    ]


def test_weights_keep_their_names_and_metadata_stays(exported: Bundle) -> None:
    fp32 = graph_of(exported, "model.onnx")
    weights = {w.name for w in fp32.graph.initializer if w.name.endswith(("weight", "bias"))}
    assert weights
    for precision in ("fp16", "bf16"):
        model = graph_of(exported, f"model-{precision}.onnx")
        assert weights <= {weight.name for weight in model.graph.initializer}
        assert {(e.key, e.value) for e in model.metadata_props} == {
            (e.key, e.value) for e in fp32.metadata_props
        }


def test_each_artefact_carries_its_parity_and_how_it_was_found(exported: Bundle) -> None:
    for precision, opset in (("fp16", 20), ("bf16", 22)):
        artefact = exported.artefact(kind="onnx", name=f"model-{precision}.onnx")
        assert artefact is not None
        assert artefact.precision == precision
        assert artefact.details["opset"] == opset
        parity = artefact.details["parity"]
        assert isinstance(parity, dict)
        assert parity.pop("label_agreement") > 98
        assert parity == {
            "frames": 3,
            "compared_on": "scenes",
            "compared_with": "torch in fp32",
            "compared_by": f"onnxruntime on the CPU, each value rounded to {precision}.",
        }


def test_the_fp16_file_runs_in_the_runtimes_own_engine(exported: Bundle) -> None:
    with (
        open_engine(exported, artefact="model.onnx", device="cpu") as full,
        open_engine(exported, artefact="model-fp16.onnx", device="cpu") as half,
    ):
        assert half.precision == "fp16"
        for frame in frames_of(RGB):
            assert np.mean(full.segment(frame) == half.segment(frame)) > 0.99


def test_the_bf16_file_says_on_a_cpu_that_it_takes_another_device(exported: Bundle) -> None:
    with pytest.raises(EngineError, match="it takes another device or precision"):
        open_engine(exported, artefact="model-bf16.onnx", device="cpu")


# ---- rounding ------------------------------------------------------------------------------------


def scaled(first: float, last: float) -> Callable[[SegmentationNetwork], object]:
    """The tiny network with its first convolution and its classifier scaled."""

    def change(network: SegmentationNetwork) -> None:
        first_conv, *_, classifier = (
            module for module in network.modules() if hasattr(module, "kernel_size")
        )
        first_conv.weight.data *= first
        first_conv.bias.data *= first
        for parameter in classifier.parameters():
            parameter.data *= last

    return change


def one_convolution(weight: float) -> onnx.ModelProto:
    """image -> float -> 1x1 convolution with two outputs -> ArgMax."""
    kernel = np.array([[weight, 0, 0], [0, weight, 0]], np.float32).reshape(2, 3, 1, 1)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], name="a", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], name="b", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["logits"], name="c"),
        helper.make_node("ArgMax", ["logits"], ["index"], name="d", axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["labels"], name="e", to=TensorProto.UINT8),
    ]
    size = [1, RGB.height, RGB.width]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [*size, 3])],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, size)],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_rounding_is_that_of_the_type(exported: Bundle, precision: str) -> None:
    """Two values that differ by less than the type resolves are equal: argmax takes the first."""
    frame = np.zeros((1, RGB.height, RGB.width, 3), np.uint8)
    frame[..., 0], frame[..., 1] = 253, 254
    rounded = RoundedEngine(exported, to_half(one_convolution(3.0), precision), precision)
    # 759 and 762: FP16 resolves 0.5 there, and both are 760 in BF16
    assert (rounded.infer(frame) == (1 if precision == "fp16" else 0)).all()


def test_what_overflows_in_fp16_overflows_in_the_comparison(exported: Bundle) -> None:
    frame = np.zeros((1, RGB.height, RGB.width, 3), np.uint8)
    frame[..., 0], frame[..., 1] = 200, 250
    model = to_half(one_convolution(400.0), "fp16")  # 80,000 and 100,000: both infinite
    assert (RoundedEngine(exported, model, "fp16").infer(frame) == 0).all()
    assert (
        RoundedEngine(exported, to_half(one_convolution(400.0), "bf16"), "bf16").infer(frame) == 1
    ).all()


def test_a_network_that_overflows_in_fp16_is_refused_with_the_share_and_bf16_takes_it(
    tmp_path: Path,
) -> None:
    spec = NetworkSpec(name="tiny_network:build", arguments={"norm": False})
    bundle = write_source(tmp_path / "loud", spec, change=scaled(1e5, 1e-5))
    with (
        stays_as_it_is(bundle),
        pytest.raises(ParityError, match=r"model-fp16\.onnx agrees .* on \d+\.\d+ % .* 99\.8 %"),
    ):
        export_onnx(bundle, SCENES, precisions=("fp16",))
    export_onnx(bundle, SCENES, precisions=("bf16",), floors=Floors(90))


def test_a_weight_beyond_fp16_is_named(tmp_path: Path) -> None:
    spec = NetworkSpec(name="tiny_network:build", arguments={"norm": False})
    bundle = write_source(tmp_path / "large", spec, change=scaled(1e7, 1e-7))
    with (
        stays_as_it_is(bundle),
        pytest.raises(ParityError, match=r"fp16 cannot hold weight '.*first\.weight', which"),
    ):
        export_onnx(bundle, SCENES, precisions=("fp16",))


# ---- floors --------------------------------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path: Path, exported: Bundle) -> tuple[Path, Path]:
    """Frames, and labels that the fp32 model gets right on every pixel."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    with open_engine(exported, artefact="model.onnx", device="cpu") as engine:
        for i, frame in enumerate(frames_of(RGB, 2)):
            write_image(images / f"{i}.png", frame)
            write_image(labels / f"{i}.png", engine.segment(frame))
    return images, labels


@pytest.mark.usefixtures("traced")
def test_miou_of_each_precision_and_of_fp32_is_recorded(
    tmp_path: Path, labelled: tuple[Path, Path]
) -> None:
    bundle = write_source(tmp_path / "alone/bundle", TINY)
    images, labels = labelled
    said = export_bundle(
        bundle,
        ("onnx",),
        precisions=("fp32", "bf16"),
        frames=[str(images)],
        labels=labels,
        argmax="graph",
    )
    full, half = said["artefacts"]
    assert full["miou"] == 100 == half["miou_fp32"]
    assert 50 < half["miou"] < 100
    assert half["label_agreement"] < 100


@pytest.mark.usefixtures("traced")
def test_a_drop_of_miou_beyond_the_limit_is_refused_with_the_points(
    tmp_path: Path, labelled: tuple[Path, Path]
) -> None:
    bundle = write_source(tmp_path / "alone/bundle", TINY)
    images, labels = labelled
    with (
        stays_as_it_is(bundle),
        pytest.raises(ParityError, match=r"fp32 100\.00 %, which is \d+\.\d\d points less where 0"),
    ):
        export_bundle(
            bundle,
            ("onnx",),
            precisions=("bf16",),
            frames=[str(images)],
            labels=labels,
            floors=Floors(None, 0),
        )


@pytest.mark.usefixtures("traced")
def test_min_agreement_overrides_every_precisions_own(tmp_path: Path) -> None:
    bundle = write_source(tmp_path / "bundle", TINY)
    with stays_as_it_is(bundle), pytest.raises(ParityError, match=r"less than 100 %"):
        export_onnx(bundle, SCENES, precisions=("bf16",), floors=Floors(100))
    assert Floors().agreement("fp16") == 99.8
    assert Floors(97.0).agreement("fp16") == 97.0


@pytest.mark.parametrize(
    ("floors", "sentence"),
    [((101, None), "min_agreement 101"), ((float("nan"), None), "min_agreement nan"),
     ((None, -1), "max_miou_drop -1"), ((None, float("nan")), "max_miou_drop nan")],
)  # fmt: skip
def test_floors_that_are_none_are_refused(
    floors: tuple[float | None, float | None], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Floors(*floors)


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    bundle = write_source(tmp_path / "bundle", TINY)
    for wrong, sentence in (
        ({"precisions": ("fp64",)}, "precisions 'fp64': this version exports to fp32, fp16"),
        ({"precisions": ()}, "precisions ''"),
        ({"floors": Floors(None, 1.0)}, "max_miou_drop needs frames and labels"),
        ({"labels": tmp_path}, "labels needs one frames"),
    ):
        with stays_as_it_is(bundle), pytest.raises(ConfigError, match=sentence):
            export_bundle(bundle, ("onnx",), **wrong)


@pytest.mark.usefixtures("traced")
def test_another_precision_leaves_what_was_there_and_again_replaces_it(tmp_path: Path) -> None:
    bundle = export_onnx(write_source(tmp_path / "bundle", TINY), SCENES)
    both = export_onnx(bundle, SCENES, precisions=("fp16",))
    again = export_onnx(both, EvaluationData(frames_of(RGB), "again"), precisions=("fp16",))
    found = {artefact.path: artefact for artefact in open_bundle(again.path).manifest.artefacts}
    assert list(found) == ["model.safetensors", "model.onnx", "model-fp16.onnx"]
    assert found["model.onnx"] == bundle.artefact(name="model.onnx")
    assert found["model-fp16.onnx"].details["exported_from"] == both.hash
