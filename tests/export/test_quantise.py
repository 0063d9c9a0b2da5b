"""INT8, FP8 and INT8 for a CPU: the graphs, what is chosen and recorded, floors and refusals."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
from export_cases import RGB, SCENES, frames_of, stays_as_it_is, write_source
from onnx import TensorProto, helper, numpy_helper
from roadshift import cli
from roadshift.export import artefacts, tuning
from roadshift.export import onnx as exporting
from roadshift.export.artefacts import export_bundle, export_onnx
from roadshift.export.calibration import Histogram, Range
from roadshift.export.data_splits import Calibration, spread
from roadshift.export.graph import opset
from roadshift.export.judge import Floors
from roadshift.export.precision import to_half
from roadshift.export.quantise import (
    layers_for,
    layers_of,
    normalise_in_one,
    quantise,
    quantised_values,
)
from roadshift.export.rounding import RoundedEngine
from roadshift.export.tuning import Tuner
from roadshift.runtime.bundle import Bundle, NetworkSpec
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import ConfigError, NetworkError, ParityError
from roadshift.scenes import render_dataset, render_scene

FORMS = ("int8", "fp8", "int8-cpu")
CHANNELS = {"first": 6, "second": 8, "classifier": 11}
LOOSE = Floors(80)  # drawn weights leave most pixels undecided
CALIBRATION = Calibration.of(
    [render_scene(seed, "dusk", RGB.width, RGB.height).image for seed in range(50, 58)], "dusk"
)
Levels = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = write_source(
        tmp_path_factory.mktemp("quantised") / "bundle", NetworkSpec(name="tiny_network:build")
    )
    precisions = ("fp32", *FORMS)
    return export_onnx(bundle, SCENES, precisions=precisions, calibration=CALIBRATION, floors=LOOSE)


@pytest.fixture
def bundle(tmp_path: Path, exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The same network in a fresh bundle, traced in no time."""
    model = onnx.load(exported.path / "model.onnx")

    def write_graph(_: object, __: Bundle, path: Path, **___: object) -> onnx.ModelProto:
        onnx.save(model, path)
        return model

    monkeypatch.setattr(exporting, "write_graph", write_graph)
    return write_source(tmp_path / "alone/bundle", NetworkSpec(name="tiny_network:build"))


def graph_of(bundle: Bundle, form: str) -> onnx.ModelProto:
    return onnx.load(bundle.path / f"model-{form}.onnx")


def pairs_of(model: onnx.ModelProto) -> Levels:
    """Scale and zero point of each quantised value."""
    weights = {w.name: w for w in model.graph.initializer}
    return {
        node.input[0]: (
            numpy_helper.to_array(weights[node.input[1]]),
            numpy_helper.to_array(weights[node.input[2]]),
        )
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


def detail(bundle: Bundle, form: str) -> dict[str, Any]:
    artefact = bundle.artefact(name=f"model-{form}.onnx")
    assert artefact is not None
    return dict(artefact.details)


# ---- the graphs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_symmetric_forms_quantise_what_convolutions_read_and_nothing_else(
    exported: Bundle, form: str
) -> None:
    """A zero point of 0, one scale an output channel, biases in float32: what TensorRT takes."""
    model = graph_of(exported, form)
    pairs = pairs_of(model)
    spared = set(detail(exported, form)["quantisation"]["spared"])
    layers = layers_of(onnx.load(exported.path / "model.onnx"))
    kept = [layer for layer in layers if layer.name not in spared]
    assert set(pairs) == {layer.input for layer in kept} | {layer.weight for layer in kept}
    for layer in kept:
        scale, zero = pairs[layer.input]
        assert scale.shape == zero.shape == ()
        scale, zero = pairs[layer.weight]
        assert scale.shape == zero.shape == (CHANNELS[layer.name],)
        assert (scale > 0).all()
    assert all((zero.astype(np.float32) == 0).all() for _, zero in pairs.values())
    kinds = {zero.dtype.name for _, zero in pairs.values()}
    assert kinds == {"int8" if form == "int8" else "float8_e4m3fn"}
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) == 3:
            assert not node.input[2].endswith("dequantised")


def test_scales_are_those_of_the_range_and_the_weights(exported: Bundle) -> None:
    model = onnx.load(exported.path / "model.onnx")
    ranges = {value: Range(-1.0, 6.35) for value in quantised_values(model, "int8")}
    weights = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    for form, levels in (("int8", 127), ("fp8", 448)):
        pairs = pairs_of(quantise(model, form, ranges))
        for layer in layers_of(model):
            np.testing.assert_allclose(pairs[layer.input][0], 6.35 / levels, rtol=1e-6)
            largest = np.abs(weights[layer.weight]).max(axis=(1, 2, 3))
            np.testing.assert_allclose(pairs[layer.weight][0], largest / levels, rtol=1e-6)


def test_the_cpus_form_has_unsigned_activations_with_a_zero_point(exported: Bundle) -> None:
    model = onnx.load(exported.path / "model.onnx")
    ranges = {value: Range(-1.0, 4.1) for value in quantised_values(model, "int8-cpu")}
    pairs = pairs_of(quantise(model, "int8-cpu", ranges))
    weights = {layer.weight for layer in layers_of(model)}
    for name, (scale, zero) in pairs.items():
        assert zero.dtype == (np.int8 if name in weights else np.uint8)
        if name not in weights:
            np.testing.assert_allclose(scale, 5.1 / 255, rtol=1e-6)
            assert zero == 50


def operators_run(bundle: Bundle, form: str, folder: Path) -> list[str]:
    """Operators that ONNX Runtime's CPU provider makes of the graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        str(bundle.path / f"model-{form}.onnx"), options, providers=["CPUExecutionProvider"]
    )
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


def test_the_cpu_runs_its_form_on_integers_with_the_relu_inside(
    exported: Bundle, tmp_path: Path
) -> None:
    found = operators_run(exported, "int8-cpu", tmp_path)
    spared = detail(exported, "int8-cpu")["quantisation"]["spared"]
    assert not spared
    # The frame's three channels and the classifier's scores stay in float32.
    assert found.count("QLinearConv") == 1
    assert "Relu" not in found


def test_the_cpus_form_normalises_in_one_operator_and_to_the_same_values(exported: Bundle) -> None:
    model = onnx.load(exported.path / "model.onnx")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    normalise_in_one(changed)
    kinds = [node.op_type for node in changed.graph.node]
    assert "BatchNormalization" in kinds
    assert kinds.count("Sub") == [node.op_type for node in model.graph.node].count("Sub") - 1
    first = layers_of(model)[0].input
    assert layers_of(changed)[0].input == first
    found = []
    for graph in (model, changed):
        graph.graph.output.append(helper.make_tensor_value_info(first, TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        found.append(session.run([first], {"image": frames_of(RGB, 1)[0][None]})[0])
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_a_spared_layer_is_as_it_was(exported: Bundle) -> None:
    model = onnx.load(exported.path / "model.onnx")
    second = next(layer for layer in layers_of(model) if layer.name == "second")
    for form in FORMS:
        ranges = {value: Range(-1.0, 1.0) for value in quantised_values(model, form)}
        graph = quantise(model, form, ranges, ["second"]).graph
        (node,) = (node for node in graph.node if node.name == second.node)
        assert node.input[1] == second.weight
        if form != "int8-cpu":
            assert node.input[0] == second.input
        everything = quantise(model, form, ranges).graph
        assert len(everything.node) - len(graph.node) in (2, 4, 6)


@pytest.mark.parametrize("form", FORMS)
def test_a_module_that_runs_twice_is_two_layers_and_either_can_be_spared(
    exported: Bundle, form: str
) -> None:
    """A third convolution with the second's weights, on the same value."""
    model = onnx.load(exported.path / "model.onnx")
    weight = next(layer.weight for layer in layers_of(model) if layer.name == "second")
    place, second = next(
        (i, node) for i, node in enumerate(model.graph.node) if weight in node.input
    )
    again = onnx.NodeProto()
    again.CopyFrom(second)
    again.name = again.output[0] = "again"
    (reader,) = (node for node in model.graph.node if second.output[0] in node.input)
    both = helper.make_node("Add", [second.output[0], "again"], ["both"], name="both")
    reader.input[list(reader.input).index(second.output[0])] = "both"
    model.graph.node.insert(place + 1, again)
    model.graph.node.insert(place + 2, both)
    names = [layer.name for layer in layers_of(model)]
    assert names == ["first", "second", "second:2", "classifier"]
    ranges = {value: Range(-1.0, 1.0) for value in quantised_values(model, form)}
    for spared, plain, quantised in (
        ("second", second.name, "again"),
        ("second:2", "again", second.name),
    ):
        nodes = quantise(model, form, ranges, [spared]).graph.node
        reads = {node.name: node.input[1] for node in nodes if node.op_type == "Conv"}
        assert (reads[plain], reads[quantised]) == (weight, f"{weight}.dequantised")


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_what_is_not_quantised_goes_to_half_precision_without_a_cast_at_a_pair(
    exported: Bundle, form: str
) -> None:
    """An engine joins a convolution with the pairs right before it; and labels stay."""
    model = graph_of(exported, form)
    lowered = to_half(model, "fp16")
    weights = {w.name: w for w in lowered.graph.initializer}
    made_by = {name: node for node in lowered.graph.node for name in node.output}
    convolutions = [node for node in lowered.graph.node if node.op_type == "Conv"]
    pairs = 0
    for node in convolutions:
        kinds = [made_by[name].op_type for name in node.input[:2] if name in made_by]
        if "DequantizeLinear" in kinds:
            assert kinds == ["DequantizeLinear"] * 2
            pairs += 2
        assert weights[node.input[2]].data_type == TensorProto.FLOAT16
    assert pairs == len([n for n in model.graph.node if n.op_type == "DequantizeLinear"])
    for node in lowered.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert weights[node.input[1]].data_type == TensorProto.FLOAT16
    frames = frames_of(RGB)
    with (
        open_engine(exported, artefact=f"model-{form}.onnx", device="cpu") as full,
        RoundedEngine(exported, lowered, form) as half,
    ):
        shares = [np.mean(full.segment(f) == half.segment(f)) for f in frames]
    assert np.mean(shares) > 0.99


def test_a_scale_below_half_precision_does_not_become_zero(exported: Bundle) -> None:
    model = onnx.load(exported.path / "model.onnx")
    ranges = {value: Range(0.0, 0.0) for value in quantised_values(model, "int8")}
    lowered = to_half(quantise(model, "int8", ranges), "fp16")
    assert all((scale > 0).all() for scale, _ in pairs_of(lowered).values())


@pytest.mark.parametrize("form", FORMS)
def test_the_file_runs_in_the_runtimes_own_engine(exported: Bundle, form: str) -> None:
    with (
        open_engine(exported, artefact="model.onnx", device="cpu") as full,
        open_engine(exported, artefact=f"model-{form}.onnx", device="cpu") as engine,
    ):
        shares = [np.mean(full.segment(f) == engine.segment(f)) for f in frames_of(RGB)]
    found = 100 * float(np.mean(shares))
    assert detail(exported, form)["parity"]["label_agreement"] == pytest.approx(found, abs=0.01)
    assert found > (85 if form == "fp8" else 95)


# ---- what is recorded ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_methods_sweep_and_spared_layers_are_recorded(exported: Bundle, form: str) -> None:
    details = detail(exported, form)
    said = details["quantisation"]
    assert said["calibration"] == {"range_frames": 6, "choice_frames": 2, "source": "dusk"}
    methods = {row["method"]: row["label_agreement"] for row in said["methods"]}
    assert set(methods) == {"minmax", "percentile", "entropy"}
    assert methods[said["method"]] == max(methods.values())
    swept = said["sweep"]["layers"]
    layers = set(CHANNELS) - ({"first"} if form == "int8-cpu" else set())
    assert {row["layer"] for row in swept} == layers
    shares = [row["label_agreement"] for row in swept]
    assert shares == sorted(shares)
    assert said["layers"] == len(swept) == len(layers)
    assert set(said["spared"]) <= layers
    assert details["parity"]["frames"] == 3


def test_each_form_has_its_file_precision_and_target(exported: Bundle) -> None:
    found = {a.path: (a.precision, a.target) for a in exported.manifest.artefacts}
    assert found["model-int8.onnx"] == ("int8", "onnx")
    assert found["model-fp8.onnx"] == ("fp8", "onnx")
    assert found["model-int8-cpu.onnx"] == ("int8", "onnxruntime-cpu")


def test_the_same_frames_give_the_same_file(bundle: Bundle, exported: Bundle) -> None:
    again = export_onnx(bundle, SCENES, precisions=("int8",), calibration=CALIBRATION, floors=LOOSE)
    one, other = (b.artefact(name="model-int8.onnx") for b in (exported, again))
    assert one is not None
    assert other is not None
    # the one bundle was traced from the other's graph, whose metadata it keeps
    assert one.sha256 == other.sha256


# ---- floors and refusals -------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_ranges_that_cut_too_much_are_refused_with_the_share(
    bundle: Bundle, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything saturates at a thousandth of what occurs."""
    monkeypatch.setattr(
        Histogram, "range", lambda self, _: Range(self.low / 1000, self.high / 1000)
    )
    name = f"model-{form}.onnx"
    with stays_as_it_is(bundle), pytest.raises(ParityError) as error:
        export_onnx(bundle, SCENES, precisions=(form,), calibration=CALIBRATION)
    floor = Floors().agreement("fp8" if form == "fp8" else "int8")
    assert f"{name} agrees with its torch model on " in str(error.value)
    assert f"less than {floor} %" in str(error.value)


def test_frames_that_are_compared_on_are_not_calibrated_on(bundle: Bundle, tmp_path: Path) -> None:
    render_dataset(tmp_path / "drive", "dusk", 20, width=RGB.width, height=RGB.height)
    folder = str(tmp_path / "drive/images")
    said = export_bundle(
        bundle, ("onnx",), precisions=("int8",), frames=[folder], calibration=[folder], floors=LOOSE
    )
    (row,) = said["artefacts"]
    assert row["frames"] == 16
    calibration = {"range_frames": 3, "choice_frames": 1, "source": f"frames of {folder}"}
    assert row["quantisation"]["calibration"] == calibration


def test_only_frames_that_are_compared_on_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    render_dataset(tmp_path / "drive", "dusk", 2, width=RGB.width, height=RGB.height)
    folder = str(tmp_path / "drive/images")
    with pytest.raises(ConfigError, match="holds only frames that the export is judged on"):
        export_bundle(
            bundle, ("onnx",), precisions=("int8",), frames=[folder], calibration=[folder]
        )


def test_one_frame_to_calibrate_on_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    render_dataset(tmp_path / "drive", "dusk", 1, width=RGB.width, height=RGB.height)
    folder = str(tmp_path / "drive/images")
    with stays_as_it_is(bundle), pytest.raises(ConfigError, match=r"1 of the frames of .* two are"):
        export_bundle(bundle, ("onnx",), precisions=("int8",), calibration=[folder])


@pytest.mark.parametrize(
    ("count", "held"),
    [(2, [1]), (3, [1]), (4, [2]), (8, [2, 6]), (128, [8, 24, 40, 56, 72, 88, 104, 120])],
)
def test_a_few_frames_evenly_spaced_are_held_out_to_choose_on(count: int, held: list[int]) -> None:
    frames = [np.full((1,), i, np.uint8) for i in range(count)]
    found = Calibration.of(frames, "drive")
    assert [int(frame[0]) for frame in found.choice] == held
    assert [int(frame[0]) for frame in found.frames] == [i for i in range(count) if i not in held]


def test_ranges_choice_and_judgement_each_see_frames_of_their_own(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranged: set[bytes] = set()
    tried: set[bytes] = set()
    gather, opened = tuning.collect, artefacts._Maker._try

    def collect(model: Any, values: Any, frames: Any, report: Any) -> Any:
        ranged.update(frame.tobytes() for frame in frames)
        return gather(model, values, frames, report)

    def watched(self: Any, model: Any, form: Any) -> Any:
        engine = opened(self, model, form)
        segment = engine.segment

        def seen(frame: np.ndarray) -> np.ndarray:
            tried.add(frame.tobytes())
            return segment(frame)

        monkeypatch.setattr(engine, "segment", seen)
        return engine

    monkeypatch.setattr(tuning, "collect", collect)
    monkeypatch.setattr(artefacts._Maker, "_try", watched)
    export_onnx(bundle, SCENES, precisions=("int8",), calibration=CALIBRATION, floors=LOOSE)
    assert ranged == {frame.tobytes() for frame in CALIBRATION.frames}
    assert tried == {frame.tobytes() for frame in CALIBRATION.choice}
    assert not (ranged | tried) & {frame.tobytes() for frame in SCENES.frames}
    assert not ranged & tried


def test_calibrating_on_scenes_is_said_aloud(bundle: Bundle) -> None:
    notes: list[str] = []
    said = export_bundle(bundle, ("onnx",), precisions=("int8",), floors=LOOSE, note=notes.append)
    assert said["artefacts"][0]["quantisation"]["calibration"]["source"] == "built-in scenes"
    assert any("give calibration FRAMES" in note for note in notes)


def test_a_range_is_found_once_for_all_graphs_that_are_tried(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entropy searches for milliseconds a value, and a sweep tries a graph a layer."""
    asked: list[tuple[int, str]] = []
    found = Histogram.range

    def counted(self: Histogram, method: Any) -> Range:
        asked.append((id(self), method))
        return found(self, method)

    monkeypatch.setattr(Histogram, "range", counted)
    export_onnx(bundle, SCENES, precisions=("int8",), calibration=CALIBRATION, floors=LOOSE)
    assert len(asked) == len(set(asked)) == 3 * len(CHANNELS)


def test_calibration_without_a_quantised_precision_is_refused(bundle: Bundle) -> None:
    with stays_as_it_is(bundle), pytest.raises(ConfigError, match="is for int8, fp8, int8-cpu"):
        export_bundle(bundle, ("onnx",), precisions=("fp16",), calibration=["drive"])


@pytest.mark.usefixtures("ctrl_c")
def test_the_command_calibrates_judges_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`export` in a process of its own: JSON alone on stdout; then, in this one, a refusal."""
    bundle = write_source(tmp_path / "bundle", NetworkSpec(name="tiny_network:build"))
    render_dataset(tmp_path / "road", "dusk", 3, width=RGB.width, height=RGB.height)
    scenes = render_dataset(
        tmp_path / "held", "dusk", 2, seed=9, width=RGB.width, height=RGB.height
    )
    assert len(scenes) == 2
    words = [sys.executable, "-m", "roadshift.cli", "export", str(bundle.path), "--json"]
    words += ["--precision", "fp32,int8", "--calibration", str(tmp_path / "road/images")]
    words += ["--frames", str(tmp_path / "held/images"), "--allow-network", "tiny_network"]
    places = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [*words, "--min-agreement", "80"], env=places, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    full, int8 = json.loads(done.stdout)["artefacts"]
    assert (full["path"], int8["path"]) == ("model.onnx", "model-int8.onnx")
    assert int8["quantisation"]["calibration"]["range_frames"] == 2
    assert 80 <= int8["label_agreement"] <= 100
    assert "tracing the graph" in done.stderr
    monkeypatch.setattr(sys, "argv", ["roadshift", *words[3:], "--min-agreement", "99.9"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 7
    said = capsys.readouterr()
    record = json.loads(said.out)
    assert [row["path"] for row in record["artefacts"]] == ["model.onnx"]
    assert [row["path"] for row in record["refused"]] == ["model-int8.onnx"]
    last = said.err.strip().splitlines()[-1]
    assert re.fullmatch(
        r"error: .*: wrote model\.onnx, and not model-int8\.onnx "
        r"\(model-int8\.onnx agrees with its torch model on .*\); "
        r"model-int8\.onnx of an earlier export of the same weights is kept\.",
        last,
    )


def test_a_graph_of_torchs_older_exporter_is_raised_to_operators_that_have_fp8(
    bundle: Bundle, exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch 2.8, which JetPack 6 has, writes opset 18 unless told."""
    older = onnx.load(exported.path / "model.onnx")
    for entry in older.opset_import:
        entry.version = 18  # none of its operators changed between 18 and its own

    def write_graph(_: object, __: Bundle, path: Path, **___: object) -> onnx.ModelProto:
        onnx.save(older, path)
        return older

    monkeypatch.setattr(exporting, "write_graph", write_graph)
    export_onnx(bundle, SCENES, precisions=("fp32", "fp8"), calibration=CALIBRATION, floors=LOOSE)
    full, fp8 = (onnx.load(bundle.path / name) for name in ("model.onnx", "model-fp8.onnx"))
    assert (opset(full), opset(fp8)) == (18, 19)
    assert {e.key for e in full.metadata_props} <= {e.key for e in fp8.metadata_props}


def test_frames_are_spread_over_all_and_their_number_is_bounded() -> None:
    frames = [np.full((1,), i, np.uint8) for i in range(200)]
    few = [int(frame[0]) for frame in spread(iter(frames[:8]), 8)]
    many = [int(frame[0]) for frame in spread(iter(frames), 8)]
    assert few == list(range(8))
    assert 4 <= len(many) <= 8
    assert len(set(np.diff(many))) == 1
    assert many[-1] >= 150


def test_every_form_is_valid_onnx_with_the_same_inputs_and_outputs(exported: Bundle) -> None:
    full = onnx.load(exported.path / "model.onnx")
    for form in FORMS:
        model = graph_of(exported, form)
        onnx.checker.check_model(model, full_check=True)
        assert list(model.graph.input) == list(full.graph.input)
        assert list(model.graph.output) == list(full.graph.output)


def test_a_network_with_nothing_to_quantise_for_a_cpu_is_told_so(exported: Bundle) -> None:
    model = onnx.load(exported.path / "model.onnx")
    for weight in model.graph.initializer:
        if weight.name != layers_of(model)[0].weight:
            weight.name = f"{weight.name}.elsewhere"  # then those convolutions are no layers
    assert layers_for(model, "int8")
    assert not layers_for(model, "int8-cpu")
    with pytest.raises(NetworkError, match="no convolution that int8-cpu quantises"):
        Tuner(model, CALIBRATION, cast(Any, None), cast(Any, None)).tune("int8-cpu", 99.0)
