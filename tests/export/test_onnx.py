"""Exporting to ONNX: the same numbers as torch, what the file says about itself, and refusals.

fast_scnn is exported, through the command line, in tests/end_to_end.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from bundle_cases import write_bundle
from export_cases import BGR, RGB, SCENES, SPACE, frames_of, stays_as_it_is, write_source
from onnx import numpy_helper
from roadshift import __version__
from roadshift.adapt import load_network
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.export import onnx as exporting
from roadshift.export.artefacts import export_bundle, export_onnx
from roadshift.export.data_splits import EvaluationData
from roadshift.export.judge import Floors
from roadshift.export.onnx import MODEL, Parity, check_parity
from roadshift.runtime.bundle import Bundle, InputSpec, NetworkSpec
from roadshift.runtime.bundle import open_bundle as read_bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import (
    ConfigError,
    MissingDependencyError,
    NetworkError,
    OutputError,
    ParityError,
)
from roadshift.scenes import render_dataset


@dataclass(frozen=True)
class Exported:
    before: Bundle
    bundle: Bundle
    model: onnx.ModelProto
    frames: list[np.ndarray]


@pytest.fixture(
    scope="module",
    params=[
        ("deeplab_v2_resnet101", {"layers": [1, 1, 1, 1]}, BGR),
        ("tiny_network:build", {"dropout": 0.5}, RGB),
    ],
    ids=["deeplab_v2", "own"],
)
def exported(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A bundle exported with logits: the published network, and a user's own."""
    name, arguments, size = request.param
    path = tmp_path_factory.mktemp("exported") / "bundle"
    before = write_source(path, NetworkSpec(name=name, arguments=arguments), size)
    frames = frames_of(size)
    bundle = export_onnx(before, EvaluationData(frames, "three scenes"), with_logits=True)
    return Exported(before, bundle, onnx.load(path / MODEL), frames)


def run_model(file: Path, frame: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs of an ONNX file, in ONNX Runtime, for one frame."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": frame[None]}), strict=True))


# ---- what the file does --------------------------------------------------------------------------


def test_the_file_takes_a_uint8_frame_and_gives_a_uint8_label_map(exported: Exported) -> None:
    file = exported.bundle.path / MODEL
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert (image.name, image.shape, image.type) == ("image", [1, 64, 96, 3], "tensor(uint8)")
    labels, logits = session.get_outputs()
    assert (labels.name, labels.shape, labels.type) == ("labels", [1, 64, 96], "tensor(uint8)")
    assert (logits.name, logits.type) == ("logits", "tensor(float)")


def test_logits_are_the_networks_own_on_a_frame_prepared_by_hand(exported: Exported) -> None:
    """Gamma, colour order, mean and scale restated: what is in the graph is what torch does."""
    spec = exported.bundle.manifest.input
    network = load_network(exported.bundle, torch.device("cpu"))
    for frame in exported.frames:
        pixels = 255 * (frame[..., :: -1 if spec.colour == "bgr" else 1] / 255.0) ** spec.gamma
        x = (pixels - spec.mean) / spec.std
        with torch.inference_mode():
            expected = network(torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32)).logits
        found = run_model(exported.bundle.path / MODEL, frame)["logits"]
        scale = float(expected.abs().max())
        np.testing.assert_allclose(found / scale, expected.numpy() / scale, atol=1e-5)


def test_labels_are_those_of_the_torch_engine(exported: Exported) -> None:
    with (
        open_engine(exported.bundle, backend="torch", device="cpu") as eager,
        open_engine(exported.bundle, backend="onnxruntime", device="cpu") as engine,
    ):
        for frame in exported.frames:
            assert np.mean(eager.segment(frame) == engine.segment(frame)) > 0.999
            assert len(np.unique(engine.segment(frame))) > 1


def test_logits_are_an_output_only_where_asked_for(
    exported: Exported, graph: onnx.ModelProto
) -> None:
    outputs = [output.name for output in exported.model.graph.output]
    assert outputs == ["labels", "logits"]
    artefact = exported.bundle.artefact(kind="onnx")
    assert artefact is not None
    assert artefact.details["outputs"] == outputs
    assert [output.name for output in graph.graph.output] == ["labels"]


# ---- what it says about itself -------------------------------------------------------------------


def test_parity_is_measured_and_recorded(exported: Exported) -> None:
    artefact = exported.bundle.artefact(kind="onnx", name=MODEL)
    assert artefact is not None
    parity = artefact.details["parity"]
    assert isinstance(parity, dict)
    assert parity.pop("label_agreement") >= 99.9
    assert parity.pop("max_difference") < 1e-4 * parity.pop("max_logit")
    assert parity == {"frames": 3, "compared_on": "three scenes", "apart": 0.0}
    assert artefact.details["opset"] == exported.model.opset_import[0].version >= 17
    assert artefact.details["exported_from"] == exported.before.hash
    assert artefact.bytes == (exported.bundle.path / MODEL).stat().st_size
    assert (artefact.precision, artefact.target) == ("fp32", "onnx")


def test_the_file_names_its_bundle_network_label_space_and_input(exported: Exported) -> None:
    told = {entry.key: entry.value for entry in exported.model.metadata_props}
    manifest = exported.before.manifest
    assert told["roadshift.version"] == __version__
    assert told["roadshift.bundle"] == exported.before.hash
    assert json.loads(told["roadshift.network"]) == manifest.network.model_dump()
    assert json.loads(told["roadshift.label_space"]) == manifest.label_space
    assert InputSpec.model_validate_json(told["roadshift.input"]) == manifest.input


def test_everything_else_of_the_bundle_stays(exported: Exported) -> None:
    before, after = exported.before.manifest, read_bundle(exported.bundle.path).manifest
    assert after.provenance == before.provenance
    assert after.artefacts[0] == before.artefacts[0]
    assert [artefact.path for artefact in after.artefacts] == ["model.safetensors", MODEL]
    assert sorted(p.name for p in exported.bundle.path.parent.iterdir()) == ["bundle"]


# ---- again, and on which frames ------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Bundle:
    """A bundle of the user's network, to be exported or refused."""
    return write_source(tmp_path / "small", NetworkSpec(name="tiny_network:build"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """The graph that `write_graph` makes of ``small``, traced once."""
    path = tmp_path_factory.mktemp("graph") / "bundle"
    bundle = write_source(path, NetworkSpec(name="tiny_network:build"))
    export_onnx(bundle, SCENES)
    return onnx.load(path / MODEL)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``graph``, to change; `write_graph` gives it without tracing anything."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)

    def write_graph(
        _: object, __: Bundle, path: Path, *, with_logits: bool, **___: object
    ) -> onnx.ModelProto:
        assert not with_logits
        onnx.save(copy, path)
        return copy

    monkeypatch.setattr(exporting, "write_graph", write_graph)
    return copy


@pytest.mark.usefixtures("traced")
def test_exporting_again_replaces_the_file(small: Bundle) -> None:
    once = export_onnx(small, EvaluationData(frames_of(RGB), "first"))
    again = export_onnx(once, EvaluationData(frames_of(RGB), "second"))
    assert [artefact.path for artefact in again.manifest.artefacts] == ["model.safetensors", MODEL]
    artefact = read_bundle(small.path).artefact(kind="onnx")
    assert artefact is not None
    assert artefact.details["exported_from"] == once.hash
    assert artefact.details["parity"]["compared_on"] == "second"


@pytest.mark.usefixtures("traced")
def test_it_compares_on_the_first_16_frames_given_and_else_on_scenes(
    small: Bundle, tmp_path: Path
) -> None:
    render_dataset(tmp_path / "drive", "dusk", 17, width=64, height=48)
    folder = str(tmp_path / "drive/images")
    said = export_bundle(small, ("onnx",), frames=[folder])
    (row,) = said["artefacts"]
    assert (row["frames"], row["compared_on"]) == (16, f"frames of {folder}")
    assert said["hash"] == read_bundle(small.path).hash
    again = read_bundle(small.path, allow_networks=["tiny_network"])
    (row,) = export_bundle(again, ("onnx",))["artefacts"]
    assert (row["frames"], row["compared_on"]) == (4, "built-in scenes")


@pytest.mark.usefixtures("traced")
def test_a_damaged_frame_is_noted_and_left_out_of_the_comparison(
    small: Bundle, tmp_path: Path
) -> None:
    first, *_ = render_dataset(tmp_path / "drive", "dusk", 3, width=64, height=48)
    first.write_bytes(first.read_bytes()[:100])
    notes: list[str] = []
    frames = [str(first.parent)]
    said = export_bundle(small, ("onnx",), frames=frames, argmax="graph", note=notes.append)
    assert said["artefacts"][0]["frames"] == 2
    assert len(notes) == 1
    assert str(first) in notes[0]


# ---- refusals: the bundle stays as it was --------------------------------------------------------


def change_classifier(model: onnx.ModelProto, change: Callable[[np.ndarray], object]) -> None:
    (weight,) = (w for w in model.graph.initializer if w.name.endswith("classifier.weight"))
    values = numpy_helper.to_array(weight).copy()
    change(values)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def test_a_graph_that_gives_other_labels_is_refused_with_the_share(
    small: Bundle, traced: onnx.ModelProto
) -> None:
    change_classifier(traced, lambda weight: np.negative(weight, out=weight))
    with (
        stays_as_it_is(small),
        pytest.raises(ParityError, match=r"agrees .* on \d+\.\d+ % .* less than 99\.9 %") as error,
    ):
        export_onnx(small, SCENES)
    share = float(str(error.value).split(" on ")[1].split(" %")[0])
    assert 0 <= share < 99.9


def test_a_graph_with_the_same_labels_and_other_numbers_is_refused_with_the_difference(
    small: Bundle, traced: onnx.ModelProto
) -> None:
    """All scores 1 % larger: no class changes."""
    change_classifier(traced, lambda weight: np.multiply(weight, 1.01, out=weight))
    for value in traced.graph.initializer:
        if value.name.endswith("classifier.bias"):
            bias = numpy_helper.to_array(value) * np.float32(1.01)
            value.CopyFrom(numpy_helper.from_array(bias, value.name))
    with (
        stays_as_it_is(small),
        pytest.raises(ParityError, match=r"differs from its torch model by \d\.\d\de[-+]\d\d"),
    ):
        export_onnx(small, SCENES)


def test_a_graph_whose_logits_are_not_numbers_is_refused_as_one() -> None:
    parity = Parity(0.0, math.nan, 1.0, 6, "frames", 100.0)
    with pytest.raises(ParityError, match="not numbers where torch's are: look for divisions by"):
        check_parity(parity, 50, MODEL)


def test_min_agreement_lets_a_user_accept_a_few_other_pixels() -> None:
    parity = Parity(99.5, 1e-6, 10.0, 4, "scenes")
    check_parity(parity, 99.0, "model.onnx")
    with pytest.raises(ParityError, match=r"model\.onnx agrees .* 99\.500 % .* of 4 frames"):
        check_parity(parity, 99.9, "model.onnx")


@pytest.mark.parametrize(
    ("agreement", "difference", "largest"),
    [(float("nan"), 0, 1), (100, float("nan"), 1), (100, 0.0011, 1), (100, 0.0011, 0.1)],
)
def test_parity_fails_on_nan_and_beyond_a_thousandth(
    agreement: float, difference: float, largest: float
) -> None:
    with pytest.raises(ParityError):
        check_parity(Parity(agreement, difference, largest, 1, "x"), 99.9, "model.onnx")


@pytest.mark.parametrize(
    ("difference", "apart", "passes"),
    [(0.5, 0.1, True), (0.5, 0.11, False), (math.inf, 0.01, False), (math.nan, 0.01, False)],
)
def test_a_few_pixels_may_differ_by_more_than_rounding(
    difference: float, apart: float, passes: bool
) -> None:
    parity = Parity(100, difference, 10, 1, "x", apart)
    if passes:
        check_parity(parity, 99.9, "model.onnx")
    else:
        with pytest.raises(ParityError, match=r"on 0\.\d\d % of the pixels, of which 0\.1 % may"):
            check_parity(parity, 99.9, "model.onnx")


@pytest.mark.usefixtures("traced")
def test_a_network_whose_scores_are_not_finite_is_refused(tmp_path: Path) -> None:
    def spoil(network: SegmentationNetwork) -> None:
        next(iter(network.classifier_parameters())).data[:] = 3e38  # finite, and overflows

    bundle = write_source(tmp_path / "nan", NetworkSpec(name="tiny_network:build"), change=spoil)
    with stays_as_it_is(bundle), pytest.raises(ParityError):
        export_onnx(bundle, SCENES, floors=Floors(0))


@pytest.mark.usefixtures("traced")
def test_a_full_disk_leaves_the_bundle_as_it_was(
    small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(_: onnx.ModelProto, path: Path) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(onnx, "save", save)
    with stays_as_it_is(small), pytest.raises(OutputError, match="the disk is full"):
        export_onnx(small, SCENES)


BRANCHING = """
from torch import nn

class Branching(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Conv2d(3, num_classes, 1)

    def forward(self, images):
        if images.mean() > 0:  # a value of the frame decides
            return self.head(images)
        return self.head(-images)
"""


def test_a_network_that_cannot_be_traced_is_refused_in_one_sentence_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/branching_network.py").write_text(BRANCHING)
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path / "code")
    spec = NetworkSpec(name="branching_network:Branching")
    bundle = write_source(tmp_path / "models/bundle", spec)
    with stays_as_it_is(bundle), pytest.raises(NetworkError) as error:
        export_onnx(bundle, SCENES)
    sentence = str(error.value)
    assert sentence.startswith(f"{bundle.path}: network 'branching_network:Branching' cannot be")
    assert "may not branch on values" in sentence
    assert "\n" not in sentence
    assert capsys.readouterr() == ("", "")


def test_a_missing_exporter_names_the_extra(small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    monkeypatch.setattr(torch.onnx, "export", export)
    with (
        stays_as_it_is(small),
        pytest.raises(MissingDependencyError, match=r"onnxscript: pip install 'roadshift\[adapt\]"),
    ):
        export_onnx(small, SCENES)


def test_a_bundle_without_weights_is_refused(tmp_path: Path) -> None:
    tiny = NetworkSpec(name="tiny_network:build")
    bundle = write_bundle(tmp_path / "bare", None, network=tiny, label_space=SPACE, input=RGB)
    with stays_as_it_is(bundle), pytest.raises(NetworkError, match="holds no weights"):
        export_onnx(bundle, SCENES)


@pytest.mark.parametrize("to", [("coreml",), ("onnx", "coreml"), (), ("",)])
def test_a_format_that_is_not_written_is_refused(small: Bundle, to: tuple[str, ...]) -> None:
    with stays_as_it_is(small), pytest.raises(ConfigError, match="this version exports to onnx"):
        export_bundle(small, to)
