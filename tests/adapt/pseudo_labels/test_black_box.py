"""Black boxes: what they are read from, what is refused, and a student that learns from them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from processes import python_output
from roadshift.adapt import RunOptions, Student, adapt_black_box, adapt_bundle, load_network
from roadshift.adapt.black_boxes import (
    BlackBox,
    checked_answer,
    open_black_box,
    resolve_student,
)
from roadshift.adapt.losses.nightshift import nightshift_terms
from roadshift.adapt.methods import build_stages, resolve_config
from roadshift.adapt.models.importing import save_weights
from roadshift.adapt.networks import build_network
from roadshift.adapt.pseudo_labels.class_balance import sqrt_inverse_weights
from roadshift.adapt.run.config import RunConfig
from roadshift.cli import app
from roadshift.export.artefacts import export_onnx
from roadshift.export.data_splits import EvaluationData
from roadshift.export.judge import Floors
from roadshift.runtime.bundle import Bundle, BundleWriter, open_bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import (
    BundleError,
    ConfigError,
    EngineError,
    FrameError,
    LabelError,
    NetworkError,
    RoadshiftError,
    RunInterrupted,
    TrainingError,
)
from roadshift.runtime.frames.images import read_image
from roadshift.runtime.labels import label_space
from run_cases import equal, history_of, run_options, weights
from torch import Tensor
from typer.testing import CliRunner

K, WIDTH, HEIGHT, FRAMES = 4, 48, 32, 6
Ask = Callable[[NDArray[np.uint8]], Any]


def by_brightness(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class indices that a network can learn from the pixels alone."""
    return (image.mean(axis=2) // 64).astype(np.uint8)


def softly(labels: NDArray[np.uint8], confidence: float = 0.91) -> NDArray[np.float32]:
    """(K, h, w) with ``confidence`` for the labelled class and the rest shared by the others."""
    hot = (labels == np.arange(K)[:, None, None]).astype(np.float32)
    return hot * confidence + (1 - hot) * (1 - confidence) / (K - 1)


@pytest.fixture
def python_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ask], str]:
    """``python_model(function)`` is ``a_users_model:ask``, as one would name it."""

    def make(function: Ask) -> str:
        module = types.ModuleType("a_users_model")
        module.ask = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "a_users_model", module)
        return "a_users_model:ask"

    return make


@pytest.fixture
def predictions(tmp_path: Path, frames_dir: Path) -> Path:
    """Soft predictions of the even frames, and hard ones of the others."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    for i, path in enumerate(sorted(frames_dir.iterdir())):
        labels = by_brightness(read_image(path))
        if i % 2:
            assert cv2.imwrite(str(folder / f"{path.stem}.png"), labels)
        else:
            np.savez_compressed(folder / path.stem, softly(labels[::2, ::2]))
    return folder


@pytest.fixture(scope="module", params=["labels", "logits"])
def exported(
    request: pytest.FixtureRequest, source: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The source model exported, with and without ``--logits``."""
    path = tmp_path_factory.mktemp("exported") / "bundle"
    shutil.copytree(source.path, path)
    frame = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    soft = request.param == "logits"
    evidence = EvaluationData([frame], "noise")
    return export_onnx(
        open_bundle(path, allow_networks=["tiny_network"]),
        evidence,
        with_logits=soft,
        floors=Floors(0),
    )


@pytest.fixture
def student(tmp_path: Path, source: Bundle) -> Student:
    """The tiny network, in the label space of the source, at the frames' size."""
    space = tmp_path / "space.json"
    space.write_text(json.dumps(source.label_space.to_dict()))
    return Student("tiny_network:build", str(space), (WIDTH, HEIGHT))


Adapt = Callable[..., Bundle]


@pytest.fixture
def adapt(
    student: Student, frames_dir: Path, tmp_path: Path, settings: Callable[..., RunConfig]
) -> Adapt:
    """``adapt(source, "training.steps=4", out=..., resume=...)`` into ``tmp_path/out``.

    Every stage runs, and the black box is asked once a frame, unless told otherwise.
    """

    def run(
        source: str | Path,
        *assignments: str,
        method: str = "atp_black_box",
        student: Student = student,
        out: Path = tmp_path / "out",
        overwrite: bool = False,
        **options: Any,
    ) -> Bundle:
        whole = [f'{method}.stages=["teach","propagate"]', f"{method}.ask=once"]
        whole = whole if method.endswith("black_box") else []
        config = settings("training.steps=4", *whole, *assignments, method=method)
        job = run_options(out, overwrite=overwrite, **options)
        return adapt_black_box(str(source), [frames_dir], config, job, student)

    return run


def image_of(frames_dir: Path, number: int = 0) -> NDArray[np.uint8]:
    return np.asarray(read_image(frames_dir / f"frame_{number}.png"))


# --- what a black box is read from ---------------------------------------------------------------


def test_a_folder_answers_with_the_file_of_the_frames_name(
    predictions: Path, frames_dir: Path
) -> None:
    black_box = open_black_box(str(predictions))
    assert (black_box.label_space, black_box.input) == (None, None)
    for i in range(FRAMES):
        image = image_of(frames_dir, i)
        answer = checked_answer(black_box.answer(f"frame_{i}", image), K, "here")
        labels = by_brightness(image)
        if i % 2:
            assert (answer == labels).all()
        else:
            assert np.allclose(answer, softly(labels[::2, ::2]), atol=1e-6)


@pytest.mark.parametrize("kind", ["palette", "four_bits", "sixteen_bits"])
def test_class_predictions_may_be_any_png_of_one_channel(kind: str, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, K, (6, 8), np.uint8)
    path = tmp_path / "frame_0.png"
    if kind == "sixteen_bits":
        assert cv2.imwrite(str(path), labels.astype(np.uint16))
    else:
        picture = Image.fromarray(labels, mode="P")
        picture.putpalette([200, 10, 30, 7, 7, 7, 0, 0, 0, 255, 255, 255])
        picture.save(path, bits=4 if kind == "four_bits" else 8)
    answer = open_black_box(str(tmp_path)).answer("frame_0", np.zeros((6, 8, 3), np.uint8))
    assert (checked_answer(answer, K, "here") == labels).all()


def test_an_exported_model_answers_as_the_bundle_it_came_from(
    exported: Bundle, frames_dir: Path
) -> None:
    file = exported.path / "model.onnx"
    from_file, from_bundle = open_black_box(str(file)), open_black_box(str(exported.path))
    assert from_file.label_space == from_bundle.label_space == exported.label_space
    assert from_file.input == from_bundle.input == exported.manifest.input
    assert from_bundle.identity == exported.hash
    image = image_of(frames_dir)
    answer = from_file.answer("any", image)
    assert np.array_equal(answer, from_bundle.answer("any", image))
    with open_engine(exported, backend="torch", device="cpu") as engine:
        expected = engine.infer(image[None])[0]
    if answer.ndim == 2:
        assert (answer == expected).mean() > 0.999
        return
    assert checked_answer(answer, K, "here").shape == (K, HEIGHT // 4, WIDTH // 4)
    full = torch.nn.functional.interpolate(
        torch.from_numpy(answer).log()[None], (HEIGHT, WIDTH), mode="bilinear"
    )
    assert (full[0].argmax(dim=0).numpy() == expected).mean() > 0.99


def test_a_model_sees_frames_of_another_size_at_its_own(exported: Bundle) -> None:
    large = np.random.default_rng(0).integers(0, 256, (3 * HEIGHT, 2 * WIDTH, 3), np.uint8)
    small = cv2.resize(large, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    answer = open_black_box(str(exported.path)).answer
    assert np.array_equal(answer("any", large), answer("any", np.asarray(small, np.uint8)))


def test_a_python_function_answers_with_what_it_returns(
    python_model: Callable[[Ask], str], frames_dir: Path
) -> None:
    image = image_of(frames_dir)
    for function in (by_brightness, lambda image: torch.from_numpy(softly(by_brightness(image)))):
        black_box = open_black_box(python_model(function))
        assert np.array_equal(black_box.answer("any", image), np.asarray(function(image)))
        assert black_box.identity == "a_users_model:ask"


# --- what is refused -----------------------------------------------------------------------------


def broken_zlib(path: Path) -> None:
    np.savez_compressed(path, softly(np.zeros((40, 60), np.uint8)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def pickled(path: Path) -> None:
    np.savez(path, np.array([os.getcwd], dtype=object))


def plain_npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, softly(np.zeros((4, 6), np.uint8)))


NPZ: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "cannot be read as an .npz"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as an .npz"),
    "broken inside": (broken_zlib, "cannot be read as an .npz"),
    "pickled": (pickled, "cannot be read as an .npz of plain numbers.*allow_pickle=False"),
    "npy": (plain_npy, "cannot be read as an .npz.*numpy.savez_compressed"),
    "two arrays": (lambda path: np.savez(path, a=np.zeros(1), b=np.ones(1)), "holds 2 arrays"),
    "no array": (lambda path: np.savez(path), "holds 0 arrays; store one"),
}


@pytest.mark.parametrize("kind", NPZ)
def test_a_damaged_npz_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    write, words = NPZ[kind]
    write(tmp_path / "frame_0.npz")
    with pytest.raises(LabelError, match=rf"frame_0\.npz: {words}"):
        open_black_box(str(tmp_path)).answer("frame_0", np.zeros((2, 2, 3), np.uint8))


PNGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "colour": (lambda path: cv2.imwrite(str(path), np.zeros((4, 6, 3), np.uint8)), "is a colour"),
    "damaged": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n cut"), "damaged"),
    "no png": (lambda path: path.write_bytes(b"GIF89a"), "is not a PNG"),
}


@pytest.mark.parametrize("kind", PNGS)
def test_a_png_that_is_no_label_map_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    write, words = PNGS[kind]
    write(tmp_path / "frame_0.png")
    with pytest.raises(LabelError, match=rf"frame_0\.png: .*{words}"):
        open_black_box(str(tmp_path)).answer("frame_0", np.zeros((2, 2, 3), np.uint8))


def test_a_frame_without_a_prediction_is_named(predictions: Path) -> None:
    (predictions / "frame_3.png").unlink()
    with pytest.raises(FrameError, match=r"predictions: has neither frame_3\.npz nor frame_3\.png"):
        open_black_box(str(predictions)).answer("frame_3", np.zeros((2, 2, 3), np.uint8))


good = softly(np.zeros((2, 3), np.uint8))
ANSWERS: dict[str, tuple[NDArray[Any], str]] = {
    "id too high": (np.full((2, 3), 4), r"has the classes \[4\], and the label space has 0 to 3"),
    "id below 0": (np.full((2, 3), -1), r"has the classes \[-1\]"),
    "16-bit void": (np.full((2, 3), 65535, np.uint16), r"has the classes \[65535\]"),
    "logits": (np.float32(8) * good - 3, r"no probabilities \(from -2.* apply a softmax"),
    "not normalised": (good * 2, r"no probabilities .*sums from 2 to 2"),
    "nan": (np.where(good > 0.5, np.nan, good), r"no probabilities \(from nan"),
    "infinite": (np.where(good > 0.5, np.inf, good), r"no probabilities"),
    "beyond float32": (good.astype(np.float64) * 1e300, r"no probabilities"),
    "negative": (np.concatenate([good[:2], good[2:3] - 0.5, good[3:] + 0.5]), r"no probabilities"),
    "K of another": (good[:3], r"is float32 \(3, 2, 3\); give floating-point .*\(4, h, w\)"),
    "K last": (good.transpose(1, 2, 0), r"is float32 \(2, 3, 4\)"),
    "bytes": ((good * 255).astype(np.uint8), r"is uint8 \(4, 2, 3\)"),
    "float ids": (np.zeros((2, 3), np.float32), r"is float32 \(2, 3\)"),
    "truth values": (np.zeros((2, 3), bool), r"is bool \(2, 3\)"),
    "batch": (good[None], r"is float32 \(1, 4, 2, 3\)"),
    "nothing": (np.asarray(None), r"is object \(\)"),
    "no pixel": (np.zeros((4, 0, 3), np.float32), r"is float32 \(4, 0, 3\)"),
    "no pixel of ids": (np.zeros((0, 3), np.uint8), r"is uint8 \(0, 3\)"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_that_is_none_is_refused_with_what_it_is(kind: str) -> None:
    answer, words = ANSWERS[kind]
    with pytest.raises(LabelError, match=f"frame 7: .*{words}"):
        checked_answer(answer, K, "frame 7")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_probabilities_of_any_width_come_back_summing_to_one(kind: type) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(K), (5, 7)).transpose(2, 0, 1)
    checked = checked_answer(p.astype(kind), K, "here")
    assert checked.dtype == np.float32
    assert np.abs(checked.sum(axis=0) - 1).max() < 1e-6
    assert np.abs(checked - p).max() < 1e-3


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.int64])
def test_class_indices_of_any_width_come_back_as_bytes(kind: type) -> None:
    labels = np.array([[0, 3], [255, 1]], kind)
    checked = checked_answer(labels, K, "here")
    assert checked.dtype == np.uint8
    assert (checked == labels).all()


def foreign(path: Path) -> None:
    """A model that somebody else exported."""
    io = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Abs", ["x"], ["y"])], "g", io[:1], io[1:]
    )
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (foreign, "takes 'x' float32 .1., and no image .*package.module:function"),
        (lambda path: path.write_bytes(b"no model"), "is not a model that ONNX Runtime can run"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda _: None, "cannot be read .No such file"),
    ],
    ids=["foreign", "damaged", "folder", "missing"],
)
def test_an_onnx_file_that_cannot_be_asked_is_refused(
    write: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    write(tmp_path / "some.onnx")
    with pytest.raises(EngineError, match=rf"some\.onnx: {words}"):
        open_black_box(str(tmp_path / "some.onnx"), space=label_space("camvid11"))


def test_a_bundle_that_was_not_exported_is_refused(source: Bundle) -> None:
    with pytest.raises(BundleError, match=r"the bundle has none; run `roadshift export`"):
        open_black_box(str(source.path))


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("nowhere", ConfigError, "nowhere: does not exist; give a folder of predictions"),
        ("some.pth", ConfigError, r"some\.pth: is not a black box; give a folder"),
        ("empty", ConfigError, r"empty: holds no predictions, .* NAME\.npy or NAME\.png\.$"),
        ("labelled", ConfigError, r"NAME\.png; give .*labelled/labels\.$"),
        ("no_such_module:ask", NetworkError, "'no_such_module:ask': there is no module"),
        ("json:ask", NetworkError, "'ask' does not exist in .*name a function of an RGB image"),
        ("json:__name__", NetworkError, "'__name__' is not callable"),
    ],
)
def test_what_is_no_black_box_is_refused(
    name: str, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.pth").write_bytes(b"weights")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "frame_0.txt").write_text("")
    (tmp_path / "labelled" / "labels").mkdir(parents=True)
    with pytest.raises(error, match=words):
        open_black_box(name)


@pytest.mark.parametrize(
    "function",
    [
        lambda image: image.no_such_thing,
        lambda _: torch.ones(4, requires_grad=True),  # no gradient of a source model is taken
    ],
)
def test_a_function_that_raises_names_itself_and_the_frame(
    function: Ask, python_model: Callable[[Ask], str], adapt: Adapt, tmp_path: Path
) -> None:
    words = r"black box 'a_users_model:ask': raised (Attribute|Runtime)Error on frame frame_0: "
    with pytest.raises(EngineError, match=words):
        adapt(python_model(function))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.run").exists()


# --- the student ---------------------------------------------------------------------------------


def silent() -> BlackBox:
    return BlackBox(lambda _, image: image, "silent")


def test_a_student_takes_from_the_black_box_what_it_does_not_say(exported: Bundle) -> None:
    black_box = open_black_box(str(exported.path))
    network, space, spec = resolve_student(Student("fast_scnn"), black_box)
    assert (network.name, space) == ("fast_scnn", exported.label_space)
    assert (spec.width, spec.height) == (WIDTH, HEIGHT)
    assert spec.mean != exported.manifest.input.mean  # its preprocessing is its own
    network, space, spec = resolve_student(Student("fast_scnn", input_size=(96, 64)), black_box)
    assert (spec.width, spec.height) == (96, 64)
    _, space, spec = resolve_student(Student("fast_scnn", "camvid11"), silent())
    assert (space.name, spec.width, spec.height) == ("camvid11", 1024, 512)


def test_the_same_classes_under_another_name_are_no_contradiction(
    exported: Bundle, tmp_path: Path
) -> None:
    data = {**exported.label_space.to_dict(), "name": "mine"}
    (tmp_path / "mine.json").write_text(json.dumps(data))
    asked = Student("fast_scnn", str(tmp_path / "mine.json"))
    _, space, _ = resolve_student(asked, open_black_box(str(exported.path)))
    assert space == exported.label_space


@pytest.mark.parametrize(
    ("student", "words"),
    [
        (Student(), "needs a student that learns: student='fast_scnn'"),
        (Student("fast_scnn"), "does not say what its classes are: give label_space"),
    ],
)
def test_a_student_that_is_not_settled_is_refused(student: Student, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve_student(student, silent())


def test_a_label_space_that_contradicts_the_model_is_refused(exported: Bundle) -> None:
    black_box = open_black_box(str(exported.path))
    with pytest.raises(ConfigError, match=r"^label_space camvid11: the black box answers in four"):
        resolve_student(Student("fast_scnn", "camvid11"), black_box)


# --- the methods ---------------------------------------------------------------------------------


def test_das3_differs_from_atp_in_its_propagation_and_on_paper_in_its_first_stage() -> None:
    for variant in ("roadshift", "paper"):
        atp, das3 = (
            resolve_config(name, assignments=[f"{name}.variant={variant}"])
            for name in ("atp_black_box", "das3_black_box")
        )
        of_atp, of_das3 = atp.method_config, das3.method_config
        differing = {key: of_das3[key] for key in of_das3 if of_das3[key] != of_atp[key]}
        propagation = {"easy_ratio": 0.3, "target": "mixed"}
        assert (of_atp["easy_ratio"], of_atp["target"]) == (0.5, "frames")
        stages, noise = [stage.name for stage in build_stages(atp)], atp.augment
        assert (atp.tone, atp.warm_start) == ("none", "source")
        if variant == "paper":
            assert differing == {**propagation, "distil": False, "teach_labels": "answers"}
            assert stages == ["distil", "teach", "propagate"]
            assert [stage.share for stage in build_stages(atp)] == [2, 1, 1]
            assert [stage.name for stage in build_stages(das3)] == ["teach", "propagate"]
            assert (of_atp["ask"], noise.policy) == ("once", "daformer")
            assert das3.augment.policy == "none"  # 50.7; with Aug 51.1
        else:
            assert differing == propagation
            assert stages == ["distil"]
            assert (of_atp["ask"], noise.policy) == ("four_views", "none")
            same = {"method": "", "method_config": {}}
            assert atp.model_copy(update=same) == das3.model_copy(update=same)


@pytest.mark.parametrize("method", ["atp_black_box", "das3_black_box"])
def test_teach_makes_ten_passes_over_cityscapes_at_most(method: str) -> None:
    config = resolve_config(method, assignments=[f"{method}.variant=paper"])
    shares = {stage.name: stage.share for stage in build_stages(config)}
    steps = config.training.steps * shares["teach"] // sum(shares.values())
    assert 7 < steps * config.training.batch_size / 2975 <= 10


def test_somebody_learns_from_the_answers() -> None:
    nobody = ["das3_black_box.distil=false", "das3_black_box.variant=paper"]
    for more in ("teach_labels=stored", 'stages=["propagate"]'):
        with pytest.raises(ConfigError, match="distil is false and no stage learns from the answ"):
            resolve_config("das3_black_box", assignments=[*nobody, f"das3_black_box.{more}"])


def test_das3s_teach_learns_the_black_boxs_labels_in_every_pass(
    adapt: Adapt, predictions: Path
) -> None:
    method = "das3_black_box"
    paper = (f"{method}.distil=false", f"{method}.teach_labels=answers")
    bundle = adapt(predictions, "training.steps=6", *paper, method=method)
    assert [line["stage"] for line in history_of(bundle.path)] == ["teach"] * 3 + ["propagate"] * 3


def test_there_is_nothing_to_align() -> None:
    with pytest.raises(ConfigError, match="a black box has no features to align"):
        resolve_config("atp_black_box", assignments=['atp_black_box.stages=["align", "teach"]'])


def test_half_of_the_steps_distil(adapt: Adapt, predictions: Path) -> None:
    bundle = adapt(predictions, "training.steps=8")
    lines = history_of(bundle.path)
    assert Counter(line["stage"] for line in lines) == {"distil": 4, "teach": 2, "propagate": 2}
    assert [line["step"] for line in lines] == list(range(1, 9))
    stages = ('atp_black_box.stages=["teach"]', "atp_black_box.distil_share=3")
    bundle = adapt(predictions, "training.steps=8", *stages, overwrite=True)
    assert Counter(line["stage"] for line in history_of(bundle.path)) == {"distil": 6, "teach": 2}


def test_distilling_teaches_the_student_what_the_model_says(
    adapt: Adapt, python_model: Callable[[Ask], str], frames_dir: Path
) -> None:
    source = python_model(lambda image: softly(by_brightness(image)))
    steps = ("training.steps=120", "training.lr=0.02", "augment.policy=none")
    plain = ("atp_black_box.distil_share=8", "atp_black_box.class_balance=none")
    bundle = adapt(source, *steps, *plain)
    divergences = [
        x["losses"]["divergence"] for x in history_of(bundle.path) if x["stage"] == "distil"
    ]
    assert np.mean(divergences[-10:]) < 0.6 * np.mean(divergences[:3])
    images = [image_of(frames_dir, i) for i in range(FRAMES)]
    expected = np.stack([by_brightness(image) for image in images])
    with open_engine(bundle, backend="torch", device="cpu") as engine:
        found = np.stack([engine.infer(image[None])[0] for image in images])
    largest_class = max((expected == c).mean() for c in range(K))
    assert (found == expected).mean() > largest_class + 0.1


def test_balanced_by_class_the_loss_is_nightshifts_with_weights_from_the_answers(
    adapt: Adapt, predictions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Tensor] = []

    def watched(*arguments: Any, class_weights: Tensor, **options: Any) -> dict[str, Tensor]:
        given.append(class_weights)
        return nightshift_terms(*arguments, class_weights=class_weights, **options)

    monkeypatch.setattr("roadshift.adapt.methods.black_box.nightshift_terms", watched)
    bundle = adapt(predictions, "atp_black_box.stages=[]", "training.steps=2")
    assert [set(line["losses"]) for line in history_of(bundle.path)] == [{"soft", "total"}] * 2
    masses = []
    for path in sorted(predictions.iterdir()):
        if path.suffix == ".npz":
            masses.append(np.load(path)["arr_0"].mean(axis=(1, 2)))
        else:
            labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            masses.append(np.bincount(labels.ravel(), minlength=K) / labels.size)
    expected = sqrt_inverse_weights(torch.from_numpy(np.mean(masses, axis=0)).float())
    assert expected.max() > 1.2 * expected.min()
    assert len(given) == 2
    for each in given:
        torch.testing.assert_close(each, expected, rtol=5e-3, atol=0)


# --- from end to end -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["atp_black_box", "das3_black_box"])
def test_a_student_learns_from_a_folder_of_soft_and_hard_predictions(
    method: str, adapt: Adapt, predictions: Path, tmp_path: Path
) -> None:
    bundle = adapt(predictions, method=method)
    manifest, provenance = bundle.manifest, bundle.manifest.provenance
    assert open_bundle(bundle.path).hash == bundle.hash
    assert not (tmp_path / "out.run").exists()
    assert manifest.network.name == "tiny_network:build"
    assert bundle.label_space.name == "four"
    assert (manifest.input.width, manifest.input.height) == (WIDTH, HEIGHT)
    assert (provenance.method, provenance.frames) == (method, FRAMES)
    assert provenance.parent == open_black_box(str(predictions)).identity
    configuration: Any = provenance.configuration
    assert configuration["method_config"]["source"] == str(predictions)
    terms = {line["stage"]: set(line["losses"]) - {"total"} for line in history_of(bundle.path)}
    assert terms == {
        "distil": {"soft"},
        "teach": {"positive", "negative"},
        "propagate": {"easy", "hard"},
    }
    load_network(bundle, torch.device("cpu"))


def test_a_student_of_another_architecture_learns_from_an_exported_model(
    adapt: Adapt, exported: Bundle
) -> None:
    bundle = adapt(exported.path / "model.onnx", student=Student("fast_scnn"))
    assert exported.manifest.network.name == "tiny_network:build"
    assert bundle.manifest.network.name == "fast_scnn"
    assert bundle.label_space == exported.label_space
    assert (bundle.manifest.input.width, bundle.manifest.input.height) == (WIDTH, HEIGHT)
    assert set(weights(bundle)) == set(build_network("fast_scnn", K).state_dict())


def test_of_a_bundle_nothing_but_its_onnx_is_used(
    adapt: Adapt, exported: Bundle, tmp_path: Path
) -> None:
    onnx_alone = weights(adapt(exported.path / "model.onnx", out=tmp_path / "from_file"))
    for name, garbage in (("no_weights", None), ("bad_weights", b"no safetensors")):
        with BundleWriter(tmp_path / name) as writer:
            if garbage is not None:
                writer.add_bytes("model.safetensors", garbage, kind="weights")
            writer.add_file("model.onnx", exported.path / "model.onnx", kind="onnx")
            bundle = writer.commit(
                network=exported.manifest.network,
                label_space=exported.label_space,
                input=exported.manifest.input,
                provenance=exported.manifest.provenance,
            )
        with pytest.raises(NetworkError):
            load_network(bundle, torch.device("cpu"))
        adapted = adapt(bundle.path, out=tmp_path / f"from_{name}")
        assert adapted.manifest.provenance.parent == bundle.hash
        assert equal(weights(adapted), onnx_alone)


def test_a_function_is_asked_once_about_every_frame(
    adapt: Adapt, python_model: Callable[[Ask], str], frames_dir: Path
) -> None:
    asked: Counter[bytes] = Counter()

    def ask(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        asked[image.tobytes()] += 1
        return by_brightness(image)

    bundle = adapt(python_model(ask), "training.steps=8")
    assert asked == {image_of(frames_dir, i).tobytes(): 1 for i in range(FRAMES)}
    assert bundle.manifest.provenance.parent == "a_users_model:ask"


def test_a_student_starts_from_the_weights_given(
    adapt: Adapt, predictions: Path, student: Student, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    network = build_network("tiny_network:build", K)
    (tmp_path / "init.safetensors").write_bytes(save_weights(network))
    given = replace(student, initial=tmp_path / "init.safetensors")
    no_steps = ("training.steps=0", "final_bn=false")
    started = weights(adapt(predictions, *no_steps, student=given))
    assert equal(started, {n: t.contiguous() for n, t in network.state_dict().items()})
    random = weights(adapt(predictions, *no_steps, out=tmp_path / "random"))
    assert not equal(random, started)
    other = weights(adapt(predictions, *no_steps, "seed=1", out=tmp_path / "other"))
    assert not equal(random, other)


# --- resume --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("steps", [1, 5, 7], ids=["distil", "teach", "propagate"])
def test_a_resumed_run_is_the_run_that_was_never_stopped(
    steps: int, adapt: Adapt, python_model: Callable[[Ask], str], tmp_path: Path
) -> None:
    calls: list[None] = []

    def ask(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        calls.append(None)
        return softly(by_brightness(image))

    source, eight = python_model(ask), "training.steps=8"
    whole = weights(adapt(source, eight, out=tmp_path / "whole"))
    done: list[Any] = []
    with pytest.raises(RunInterrupted):
        adapt(source, eight, report=done.append, stop_requested=lambda: len(done) == steps)
    assert equal(weights(adapt(source, eight, resume=True)), whole)
    assert len(calls) == 2 * FRAMES


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_was_stopped_while_asking_asks_about_the_rest(
    adapt: Adapt, python_model: Callable[[Ask], str], tmp_path: Path
) -> None:
    calls: list[None] = []

    def ask(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        calls.append(None)
        return by_brightness(image)

    source = python_model(ask)
    with pytest.raises(RunInterrupted):
        adapt(source, stop_requested=lambda: len(calls) == 4)
    assert len(calls) == 4
    resumed = weights(adapt(source, resume=True))
    assert len(calls) == FRAMES
    assert equal(resumed, weights(adapt(source, out=tmp_path / "whole")))


def test_predictions_that_changed_are_not_mixed_with_those_of_a_stopped_run(
    adapt: Adapt, predictions: Path, after_one_step: dict[str, Any]
) -> None:
    with pytest.raises(RunInterrupted):
        adapt(predictions, **after_one_step)
    np.savez_compressed(predictions / "frame_0.npz", softly(np.full((2, 3), 1, np.uint8)))
    with pytest.raises(TrainingError, match=r"started with other frames, settings or source model"):
        adapt(predictions, resume=True)


# --- what a run refuses --------------------------------------------------------------------------


def test_methods_are_kept_apart(
    adapt: Adapt, predictions: Path, source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="iapc needs the source model itself"):
        adapt(predictions, method="iapc")
    config = resolve_config("atp_black_box")
    with pytest.raises(ConfigError, match="give it a black box and a student"):
        adapt_bundle(source, [frames_dir], config, RunOptions(tmp_path / "out"))


def test_no_tone_is_aligned_with_what_cannot_be_seen(adapt: Adapt, predictions: Path) -> None:
    with pytest.raises(ConfigError, match="tone=auto: a black box shows no batch-norm statistics"):
        adapt(predictions, "tone=auto")


def test_an_answer_that_is_none_leaves_nothing(
    adapt: Adapt, predictions: Path, tmp_path: Path
) -> None:
    assert cv2.imwrite(str(predictions / "frame_5.png"), np.full((4, 4), 9, np.uint8))
    with pytest.raises(LabelError, match=r"the answer to frame frame_5: has the classes \[9\]"):
        adapt(predictions)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.run").exists()


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_line_makes_a_bundle_of_another_network(
    predictions: Path, student: Student, frames_dir: Path, tmp_path: Path
) -> None:
    assert student.label_space is not None
    command = [
        *("-m", "roadshift.cli", "adapt", predictions, frames_dir, "--json"),
        *("--method", "das3_black_box", "--student", "fast_scnn", "--device", "cpu"),
        *("--label-space", student.label_space, "--input-size", "48x32"),
        *("--set", "training.steps=4", "--set", "training.batch_size=2", "--out", tmp_path / "out"),
    ]
    printed = json.loads(python_output(*command))
    bundle = open_bundle(tmp_path / "out")
    assert printed["bundle"] == str(tmp_path / "out")
    assert bundle.manifest.network.name == "fast_scnn"
    assert bundle.manifest.provenance.method == "das3_black_box"


@pytest.mark.parametrize("option", ["--student", "--label-space", "--input-size", "--init"])
def test_a_method_that_adapts_the_bundles_own_network_takes_no_student(
    option: str, source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    value = "96x64" if option == "--input-size" else "x"
    out = str(tmp_path / "out")
    arguments = [str(source.path), str(frames_dir), "--out", out, option, value]
    result = CliRunner().invoke(app, ["adapt", *arguments, "--method", "iapc"])
    assert isinstance(result.exception, RoadshiftError)
    assert "are for black-box methods; iapc starts from" in str(result.exception)
    result = CliRunner().invoke(app, ["adapt", *arguments[:-2], "--method", "atp_black_box"])
    assert "run `roadshift export` on it first" in str(result.exception)
