"""Runs that learn from a black box: what outlives a failure, what is asked, the Python face."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import roadshift
from answering_service import image_in, reply, service
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from pixel_networks import MEAN, STD, logits_of, onnx_network, softmax
from roadshift import AtpBlackBoxConfig, Das3BlackBoxConfig, TrainingConfig
from roadshift.adapt.black_boxes import BoxWiring, loopback, open_black_box
from roadshift.adapt.run.events import Events
from roadshift.adapt.workflows.asking import ask_black_box, labels_of
from roadshift.cli import app
from roadshift.runtime.bundle import Bundle, BundleWriter, InputSpec
from roadshift.runtime.console.flags import flag_of
from roadshift.runtime.frames.images import read_image
from run_cases import equal, weights
from typer.testing import CliRunner

FRAMES = 6
SMALL = TrainingConfig(steps=2, batch_size=2, amp="off")
SERVER = Path(__file__).parents[3] / "examples" / "black_box_server.py"
PLAIN = BoxWiring(mean=MEAN, std=STD)


@pytest.fixture
def learn(source: Bundle, frames_dir: Path, tmp_path: Path) -> Callable[..., Bundle]:
    """``learn(black_box, out=..., ...)``: two steps of the tiny network."""

    def run(black_box: Any, out: str = "out", **options: Any) -> Bundle:
        given = {
            "label_space": source.label_space,
            "student": "tiny_network:build",
            "input_size": (48, 32),
            "training": SMALL,
            "settings": AtpBlackBoxConfig(ask="once"),
            "device": "cpu",
        }
        return roadshift.adapt_black_box(
            black_box, frames_dir, out=tmp_path / out, **{**given, **options}
        )

    return run


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "box.onnx"
    path.write_bytes(onnx_network(shape=(1, 3, 32, 48)))
    return path


def pixels(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return softmax(logits_of(image))


# --- from Python ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
def test_a_file_and_a_function_of_the_same_network_teach_the_same(
    learn: Callable[..., Bundle], network: Path
) -> None:
    by_function = learn(pixels, "by_function")
    by_file = learn(network, "by_file", mean=MEAN, std=STD)
    for name, tensor in weights(by_function).items():
        assert np.allclose(tensor, weights(by_file)[name], atol=1e-3), name
    told: Any = by_file.manifest.provenance.configuration["method_config"]
    assert told["source"] == str(network)
    assert told["wiring"] == {"mean": list(MEAN), "std": list(STD)}
    told = by_function.manifest.provenance.configuration["method_config"]
    assert told["source"] == by_function.manifest.provenance.parent == f"{__name__}:pixels"


def test_every_method_of_black_boxes_is_taken_and_no_other(learn: Callable[..., Bundle]) -> None:
    das3 = learn(pixels, method="das3_black_box", settings=Das3BlackBoxConfig(ask="once"))
    assert das3.manifest.provenance.method == "das3_black_box"
    with pytest.raises(roadshift.ConfigError, match=r"^method: nightshift needs the source model"):
        learn(pixels, "other", method="nightshift", settings=None)
    with pytest.raises(roadshift.ConfigError, match="takes Das3BlackBoxConfig, not AtpBlackBox"):
        learn(pixels, "other", method="das3_black_box")


@pytest.mark.parametrize(
    ("changes", "argument", "words"),
    [
        ({"mean": (1, 2)}, "mean", "is not three numbers"),
        ({"std": (1, 2, 0)}, "std", "is not three positive numbers"),
        ({"input_size": (8, 8)}, "input_size", "at least 32"),
        ({"answer_timeout_s": 0}, "answer_timeout_s", "no finite number above 0"),
        ({"colour": "green"}, "colour", "is none of rgb, bgr"),
        ({"answers": "labels"}, "answers", "is none of logits, probabilities, classes"),
        ({"output": "out"}, "output", "is a Python function, which does all itself"),
        ({"student_output": "x"}, "student_output", "has one output|returns no|no map"),
    ],
)
def test_an_error_names_the_argument(
    changes: dict[str, Any], argument: str, words: str, learn: Callable[..., Bundle], tmp_path: Path
) -> None:
    with pytest.raises(roadshift.RoadshiftError, match=words) as caught:
        learn(pixels, **changes)
    assert caught.value.argument == argument
    assert not list(tmp_path.iterdir())


# --- what outlives a failure ---------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A service that fails on its fourth frame until ``well`` is set."""
    monkeypatch.setattr(loopback, "FIRST_PAUSE_S", 0.0)
    state: dict[str, Any] = {"asked": [], "well": False}

    def post(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if len(state["asked"]) == 3 and not state["well"]:
            reply(handler, 503, "text/plain", b"out of memory")
            return
        state["asked"].append(handler.headers["X-Frame-Name"])
        labels = pixels(image_in(handler, body)).argmax(axis=0).astype(np.uint8)
        reply(handler, 200, "image/png", cv2.imencode(".png", labels)[1].tobytes())

    with service(post=post) as url:
        yield {"state": state, "url": url}


@pytest.mark.usefixtures("one_thread")
def test_a_service_that_died_is_asked_for_the_rest(
    learn: Callable[..., Bundle], failing: dict[str, Any], tmp_path: Path
) -> None:
    said: list[str] = []
    state, url = failing["state"], failing["url"]
    with pytest.raises(roadshift.EngineError, match=r"status 503 \(out of memory\), 4 times"):
        learn(url, on_note=said.append)
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "out.run" / "answers").glob("*.npz"))) == 3
    assert (
        "out.run: keeps what the black box has answered; the same command with resume" in (said[-1])
    )
    state["well"] = True
    resumed = learn(url, resume=True)
    assert sorted(state["asked"]) == [f"frame_{i}" for i in range(FRAMES)]
    assert equal(weights(resumed), weights(learn(url, "whole")))
    assert not (tmp_path / "out.run").exists()


def test_one_bad_answer_ends_the_run_and_the_others_are_not_asked_for_again(
    learn: Callable[..., Bundle],
) -> None:
    asked: list[None] = []
    bad = [True]

    def ask(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        asked.append(None)
        return pixels(image) * (np.nan if bad[0] and len(asked) == 3 else 1)

    with pytest.raises(roadshift.LabelError, match=r"answer to frame frame_\d: its numbers are no"):
        learn(ask)
    bad[0] = False
    learn(ask, resume=True)
    assert len(asked) == FRAMES + 1  # the bad one again


def test_frames_without_an_answer_are_named_before_the_first_is_learned_from(
    learn: Callable[..., Bundle], frames_dir: Path, tmp_path: Path
) -> None:
    answers = tmp_path / "answers"
    answers.mkdir()
    for name in ("frame_0", "frame_2"):
        np.save(answers / f"{name}.npy", pixels(np.asarray(read_image(frames_dir / f"{name}.png"))))
    words = r"answers: has no answer to 4 of 6 frames \(frame_1, frame_3, frame_4, frame_5\)"
    with pytest.raises(roadshift.FrameError, match=words):
        learn(answers)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers"]


# --- asking --------------------------------------------------------------------------------------


def test_answers_written_down_teach_and_measure_as_the_black_box_itself(
    source: Bundle, frames_dir: Path, network: Path, tmp_path: Path
) -> None:
    made = ask_black_box(
        network, [frames_dir], tmp_path / "out", space=source.label_space, wiring=PLAIN, soft=True
    )
    assert (made.asked, made.kept) == (FRAMES, 0)
    assert sum(made.shares.values()) == pytest.approx(1)
    folder = open_black_box(tmp_path / "out")
    for path in frames_dir.iterdir():
        image = np.asarray(read_image(path))
        labels = cv2.imread(str(tmp_path / "out" / path.name), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(labels, pixels(image).argmax(axis=0))
        assert np.abs(folder.answer(path.stem, image) - pixels(image)).max() < 1e-3


def test_asking_goes_on_where_it_was_stopped(
    source: Bundle, frames_dir: Path, network: Path, tmp_path: Path
) -> None:
    done: list[object] = []
    events = Events(report_phase=done.append, stop_requested=lambda: len(done) == 2)
    given: dict[str, Any] = {"space": source.label_space, "wiring": PLAIN}
    with pytest.raises(roadshift.RunInterrupted):
        ask_black_box(network, [frames_dir], tmp_path / "out", **given, events=events)
    with pytest.raises(roadshift.OutputError, match="holds files already; go on with resume=True"):
        ask_black_box(network, [frames_dir], tmp_path / "out", **given)
    made = ask_black_box(network, [frames_dir], tmp_path / "out", **given, resume=True)
    assert (made.asked, made.kept) == (FRAMES - 2, 2)
    again = ask_black_box(network, [frames_dir], tmp_path / "out", **given, overwrite=True)
    assert again.asked == FRAMES


def test_classes_are_no_probabilities_to_write(frames_dir: Path, tmp_path: Path) -> None:
    def dark(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.zeros(image.shape[:2], np.uint8)

    space = roadshift.LabelSpace(name="one", classes=("a", "b"), colours=((0, 0, 0), (1, 1, 1)))
    with pytest.raises(roadshift.ConfigError, match=r"^soft=True: the black box answers in cl"):
        ask_black_box(dark, [frames_dir], tmp_path / "out", space=space, soft=True)
    assert not (tmp_path / "out").exists()


def test_a_coarse_answer_is_interpolated_before_its_largest_is_taken() -> None:
    p = np.array([[[0.9, 0.4]], [[0.1, 0.6]]], np.float32)
    assert labels_of(p, 1, 8).tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]]
    assert labels_of(np.array([[0, 255]], np.uint8), 1, 4).tolist() == [[0, 0, 255, 255]]


# --- from the command line -----------------------------------------------------------------------


def test_the_commands_ask_learn_and_measure(
    source: Bundle, frames_dir: Path, network: Path, tmp_path: Path
) -> None:
    space = tmp_path / "space.json"
    space.write_text(json.dumps(source.label_space.to_dict()))
    wired = ["--label-space", space, "--mean", "0,0,0", "--std", "255,255,255", "--output", "0"]

    def command(*words: object) -> Any:
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    asked = command("ask", network, frames_dir, *wired, "--out", tmp_path / "said", "--json")
    assert asked["asked"] == FRAMES
    command(
        "adapt", network, frames_dir, *wired, "--method", "atp_black_box",
        "--student", "tiny_network:build", "--set", "training.steps=2",
        "--set", "training.batch_size=2", "--out", tmp_path / "out", "--device", "cpu",
        "--json", "--nice", "0",
    )  # fmt: skip
    measured = command(
        "eval", tmp_path / "out", "--images", frames_dir, "--labels", tmp_path / "said",
        "--allow-network", "tiny_network", "--json",
    )  # fmt: skip
    assert 0 <= measured["pixel_accuracy"] <= 100
    assert measured["frames"] == FRAMES


def test_options_are_named_by_their_flags(network: Path, frames_dir: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["ask", str(network), str(frames_dir), "--out", str(tmp_path / "said")]
    )
    assert isinstance(done.exception, roadshift.ConfigError)
    assert "give --label-space (its outputs are 'out' float32" in done.exception.told(flag_of)


def test_the_server_of_the_examples_answers_as_its_bundle(source: Bundle, tmp_path: Path) -> None:
    model = ModelProto.FromString(
        onnx_network(
            shape=(1, 16, 24, 3),
            input_type=TensorProto.UINT8,
            head="argmax",
            output_type=TensorProto.UINT8,
        )
    )
    model.graph.output[0].name = model.graph.node[-1].output[0] = "labels"
    with BundleWriter(tmp_path / "teacher") as writer:
        writer.add_bytes("model.onnx", model.SerializeToString(), kind="onnx", precision="fp32")
        bundle = writer.commit(
            network=source.manifest.network,
            label_space=source.label_space,
            input=InputSpec(width=24, height=16, mean=MEAN, std=STD),
            provenance=source.manifest.provenance,
        )
    image = np.random.default_rng(4).integers(0, 256, (16, 24, 3), np.uint8)
    program = [sys.executable, str(SERVER), str(bundle.path), "--port", "0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            black_box = open_black_box(server.stdout.readline().strip())
            assert black_box.label_space == source.label_space
            answer = black_box.answer("frame", image)
        finally:
            server.terminate()
    assert np.array_equal(answer, pixels(image).argmax(axis=0))
