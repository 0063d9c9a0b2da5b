"""Labels made outside the graph: models cut at their logits, the choice by time, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_cases import RGB, frames_of, stays_as_it_is, write_source
from roadshift.export import argmax, artefacts
from roadshift.export import onnx as exporting
from roadshift.export.argmax import logits_only, settle_argmax
from roadshift.export.artefacts import export_bundle
from roadshift.export.judge import Floors
from roadshift.export.onnx import MODEL
from roadshift.runtime.bundle import Bundle, NetworkSpec
from roadshift.runtime.bundle import open_bundle as read_bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import ConfigError, ParityError
from roadshift.runtime.probes.machine_state import device_name

TINY = NetworkSpec(name="tiny_network:build")


@pytest.fixture(scope="module")
def graph_form(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny network, exported with its argmax in the graph."""
    bundle = write_source(tmp_path_factory.mktemp("tiny") / "bundle", TINY)
    export_bundle(bundle, ("onnx",), argmax="graph")
    return read_bundle(bundle.path)


def settle(bundle: Bundle, folder: Path, where: Any, precision: str = "fp32") -> dict[str, Any]:
    """`settle_argmax` on a copy of the bundle's model in ``folder``."""
    (folder / MODEL).write_bytes((bundle.path / MODEL).read_bytes())
    said: list[str] = []
    details = settle_argmax(bundle, folder / MODEL, precision, frames_of(RGB), where, said.append)
    assert [path.name for path in folder.iterdir()] == [MODEL]
    assert len(said) == (where != "graph")
    return details


def test_a_cut_model_gives_logits_at_the_networks_stride_and_holds_no_more(
    graph_form: Bundle,
) -> None:
    model = onnx.load(graph_form.path / MODEL)
    cut = logits_only(model)
    assert cut is not None
    assert not cut.align_corners
    assert [output.name for output in cut.model.graph.output] == ["logits"]
    shape = [d.dim_value for d in cut.model.graph.output[0].type.tensor_type.shape.dim]
    assert shape[:2] == [1, 11]
    assert shape[2] < RGB.height
    kinds = {node.op_type for node in cut.model.graph.node}
    assert not kinds & {"Resize", "ArgMax"}
    assert [p.key for p in cut.model.metadata_props] == [p.key for p in model.metadata_props]
    assert "ArgMax" in {node.op_type for node in model.graph.node}  # the argument is untouched


@pytest.mark.parametrize("mode", ["align_corners", "half_pixel", "pytorch_half_pixel"])
def test_how_corners_are_aligned_is_read_from_the_graph(graph_form: Bundle, mode: str) -> None:
    model = onnx.load(graph_form.path / MODEL)
    (resize,) = (node for node in model.graph.node if node.op_type == "Resize")
    (how,) = (a for a in resize.attribute if a.name == "coordinate_transformation_mode")
    how.s = mode.encode()
    cut = logits_only(model)
    assert cut is not None
    assert cut.align_corners == (mode == "align_corners")
    how.s = b"asymmetric"
    assert logits_only(model) is None


def test_both_forms_give_the_same_labels_through_the_engine(
    graph_form: Bundle, tmp_path: Path
) -> None:
    details = settle(graph_form, tmp_path, "runtime")
    assert (details["argmax"], details["align_corners"]) == ("runtime", False)
    assert details["outputs"] == ["logits"]
    assert not {"argmax_ms", "measured_on"} & set(details)  # nothing was chosen by time


@pytest.mark.parametrize(
    ("runtime_ms", "chosen"),
    [(1.0, "runtime"), (1.9, "runtime"), (1.91, "graph"), (3.0, "graph")],
)
def test_auto_takes_the_runtime_where_it_saves_a_twentieth(
    graph_form: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime_ms: float,
    chosen: str,
) -> None:
    times = {"graph": 2.0, "runtime": runtime_ms}
    monkeypatch.setattr(argmax, "_compare", lambda *_: (times, 100.0))
    details = settle(graph_form, tmp_path, "auto")
    assert (details["argmax"], details["argmax_ms"]) == (chosen, times)
    assert details["measured_on"] == device_name("cpu")
    outputs = [o.name for o in onnx.load(tmp_path / MODEL).graph.output]
    assert outputs == (["logits"] if chosen == "runtime" else ["labels"])


def test_both_forms_are_really_timed_and_compared(graph_form: Bundle, tmp_path: Path) -> None:
    details = settle(graph_form, tmp_path, "auto")
    assert set(details["argmax_ms"]) == {"graph", "runtime"}
    assert all(time > 0 for time in details["argmax_ms"].values())


class Slow:
    """An engine that takes ``seconds`` and gives ``label`` everywhere."""

    def __init__(self, asked: list[str], name: str, seconds: float, label: int = 0) -> None:
        self.asked, self.name, self.seconds, self.label = asked, name, seconds, label
        self.first = 5.0  # a first run is slower

    def infer(self, batch: np.ndarray) -> np.ndarray:
        Clock.now += self.seconds + self.first
        self.first = 0.0
        self.asked.append(self.name)
        return np.full(batch.shape[:3], self.label, np.uint8)


class Clock:
    now = 0.0


@pytest.mark.parametrize(("seconds", "turns"), [(0.125, 25), (1.0, 4)], ids=["quick", "slow"])
def test_the_two_forms_are_timed_in_turns_for_seconds(
    monkeypatch: pytest.MonkeyPatch, seconds: float, turns: int
) -> None:
    """Twice as slow as given for the graph; the run that warms up does not count."""
    monkeypatch.setattr(argmax, "perf_counter", lambda: Clock.now)
    monkeypatch.setattr(argmax, "_SECONDS", 20.0)
    asked: list[str] = []
    graph: Any = Slow(asked, "graph", 2 * seconds)
    runtime: Any = Slow(asked, "runtime", seconds)
    times, same = argmax._compare(graph, runtime, frames_of(RGB, 2))
    assert times == {"graph": 2000 * seconds, "runtime": 1000 * seconds}
    assert same == 100
    assert asked == ["graph", "runtime"] * turns


def test_the_least_share_of_equal_labels_counts() -> None:
    graph: Any = Slow([], "graph", 0.0)
    runtime: Any = Slow([], "runtime", 0.0, label=1)
    assert argmax._compare(graph, runtime, frames_of(RGB, 2))[1] == 0


def test_what_a_cpu_cannot_time_stays_in_the_graph(graph_form: Bundle, tmp_path: Path) -> None:
    assert settle(graph_form, tmp_path, "auto", "fp16") == {"argmax": "graph"}
    assert settle(graph_form, tmp_path, "graph") == {}


@pytest.mark.parametrize("where", ["auto", "runtime"])
def test_a_form_that_a_cpu_cannot_even_open_is_exported_all_the_same(
    where: str, tmp_path: Path
) -> None:
    bundle = write_source(tmp_path / "bundle", TINY)
    made = export_bundle(bundle, ("onnx",), precisions=("bf16", "fp16"), argmax=where)["artefacts"]
    places = {row["precision"]: row["argmax"] for row in made}
    expected = "graph" if where == "auto" else "runtime"
    assert (places["bf16"], places["fp16"]) == (expected, expected)


def test_forms_that_differ_are_refused(
    graph_form: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: onnx.ModelProto) -> Any:
        cut = logits_only(model)
        assert cut is not None
        return argmax.Cut(cut.model, not cut.align_corners)

    monkeypatch.setattr(argmax, "logits_only", wrong)
    (tmp_path / MODEL).write_bytes((graph_form.path / MODEL).read_bytes())
    with pytest.raises(ParityError, match=r"model\.onnx gives other labels on \d+\.\d+ %"):
        settle_argmax(
            graph_form, tmp_path / MODEL, "fp32", frames_of(RGB), "runtime", lambda _: None
        )


def test_a_model_without_upsampling_has_one_form(graph_form: Bundle, tmp_path: Path) -> None:
    model = onnx.load(graph_form.path / MODEL)
    for node in model.graph.node:
        if node.op_type == "Resize":
            node.op_type = "Identity"
            del node.input[1:]
            del node.attribute[:]
    onnx.save(model, tmp_path / MODEL)
    path = tmp_path / MODEL
    assert settle_argmax(graph_form, path, "fp32", frames_of(RGB), "auto", lambda _: None) == {}
    with pytest.raises(ConfigError, match=r"no bilinear upsampling.*argmax='graph'"):
        settle_argmax(graph_form, path, "fp32", frames_of(RGB), "runtime", lambda _: None)


@pytest.fixture
def traced(graph_form: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing again, which takes seconds, gives what ``graph_form`` holds."""

    def write_graph(
        _: object, __: Bundle, path: Path, *, with_logits: bool, **___: object
    ) -> onnx.ModelProto:
        assert not with_logits
        path.write_bytes((graph_form.path / MODEL).read_bytes())
        return onnx.load(path)

    monkeypatch.setattr(exporting, "write_graph", write_graph)


@pytest.mark.usefixtures("traced")
def test_an_export_remembers_and_the_engine_follows(graph_form: Bundle, tmp_path: Path) -> None:
    bundle = write_source(tmp_path / "bundle", TINY)
    (row,) = export_bundle(bundle, ("onnx",), argmax="runtime")["artefacts"]
    assert (row["argmax"], row["outputs"]) == ("runtime", ["logits"])
    with (
        open_engine(bundle.path, device="cpu") as runtime,
        open_engine(graph_form, device="cpu") as graph,
    ):
        for frame in frames_of(RGB):
            assert np.mean(runtime.segment(frame) != graph.segment(frame)) < 1e-3


@pytest.mark.usefixtures("traced")
def test_without_an_option_the_choice_is_by_time_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(argmax, "_compare", lambda *_: ({"graph": 2.0, "runtime": 1.0}, 100.0))
    bundle = write_source(tmp_path / "bundle", TINY)
    (row,) = export_bundle(bundle, ("onnx",))["artefacts"]
    assert (row["argmax"], row["measured_on"]) == ("runtime", device_name("cpu"))
    with open_engine(bundle.path, device="cpu") as engine:
        assert "chosen by time" not in engine.reason
    monkeypatch.setattr("roadshift.runtime.engines.opening.device_name", lambda _: "another CPU")
    with open_engine(bundle.path, device="cpu") as engine:
        assert engine.reason.endswith(
            f"Where its labels are made (runtime) was chosen by time on {device_name('cpu')}; "
            f"`roadshift export {bundle.path} --to onnx` here chooses anew."
        )


@pytest.mark.usefixtures("traced")
def test_what_is_recorded_and_refused_is_the_form_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime's labels are spoilt after both forms were found to be alike."""
    bundle = write_source(tmp_path / "alone/bundle", TINY)
    (row,) = export_bundle(bundle, ("onnx",), argmax="runtime")["artefacts"]
    assert row["compared_by"].startswith("onnxruntime")
    assert row["label_agreement"] > 99.9
    before = read_bundle(bundle.path, allow_networks=TINY.modules)

    def spoil(*arguments: Any) -> dict[str, Any]:
        end = settle_argmax(*arguments)
        model = onnx.load(arguments[1])
        (node,) = (node for node in model.graph.node if node.output[0] == "logits")
        node.op_type = "Neg"
        del node.attribute[:]
        onnx.save(model, arguments[1])
        return end

    monkeypatch.setattr(artefacts, "settle_argmax", spoil)
    with stays_as_it_is(before), pytest.raises(ParityError, match=r"agrees .* less than 50 %"):
        export_bundle(before, ("onnx",), argmax="runtime", floors=Floors(50))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"argmax": "gpu"}, "argmax 'gpu'"),
        ({"argmax": "runtime", "with_logits": True}, "logits=True"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    graph_form: Bundle, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        export_bundle(graph_form, ("onnx",), **settings)
