"""A run that is killed or stopped and resumed is, on a CPU, the run that never was, bit for bit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from processes import python_output
from roadshift.adapt import RunOptions, adapt_bundle, train_bundle
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch
from roadshift.adapt.methods import Stage
from roadshift.adapt.methods.base import ParameterGroup
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.run.workspace import CHECKPOINT, HISTORY
from roadshift.adapt.training.trainer import Trainer
from roadshift.runtime.arguments import ProgressUpdate
from roadshift.runtime.bundle import Bundle, InputSpec, NetworkSpec
from roadshift.runtime.errors import RunInterrupted, TrainingError
from roadshift.runtime.frames.images import read_image
from roadshift.runtime.labels import LabelSpace
from run_cases import SUPPORT, Killed, Polls, adapted, assert_same, kill_at, run_options
from safetensors.torch import load_file
from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")
Settings = Callable[..., RunConfig]


# --- SIGKILL, in child processes -----------------------------------------------------------------


@pytest.fixture(scope="module")
def driven(
    source: Bundle, frames_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The report of `kill_driver`."""
    output = python_output(
        SUPPORT / "kill_driver.py", source.path, frames_dir, tmp_path_factory.mktemp("kills")
    )
    report: dict[str, Any] = json.loads(output)
    assert report["whole"]["steps"] == list(range(1, 8))
    return report


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_no_bit(driven: dict[str, Any]) -> None:
    assert driven["random"]["kills"] == 20
    for outcome in driven["random"]["outcomes"]:
        assert outcome == driven["whole"]


@pytest.mark.slow
def test_a_kill_before_every_file_operation_changes_no_bit(driven: dict[str, Any]) -> None:
    files = {name for _, _, name in driven["writes"]["moments"]}
    assert {"/out.run/checkpoint.safetensors.tmp", "/.out.tmp/manifest.json", "/out.run"} <= files
    assert driven["writes"]["survived"] == []  # each of the kills came
    assert driven["writes"]["outcomes"] == [driven["whole"]]


# --- signals, in this process --------------------------------------------------------------------


@pytest.fixture
def sigterm_at() -> Iterator[Callable[[int], dict[str, Any]]]:
    """Options with which a run gets a SIGTERM during its n-th step, handled as `roadshift` does."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))

    def options(step: int) -> dict[str, Any]:
        def report(progress: ProgressUpdate) -> None:
            if progress.done == step:
                os.kill(os.getpid(), signal.SIGTERM)

        heard.clear()
        return {"report": report, "stop_requested": lambda: bool(heard)}

    yield options
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_sigterm_checkpoints_and_the_resumed_run_is_exact(
    step: int,
    source: Bundle,
    frames_dir: Path,
    tmp_path: Path,
    settings: Settings,
    sigterm_at: Callable[[int], dict[str, Any]],
) -> None:
    whole = adapted(source, frames_dir, settings(), tmp_path / "whole")
    with pytest.raises(RunInterrupted, match=rf"after step {step}.*resume=True"):
        adapted(source, frames_dir, settings(), tmp_path / "out", **sigterm_at(step))
    assert not (tmp_path / "out").exists()
    assert len((tmp_path / "out.run" / HISTORY).read_text().splitlines()) == step
    assert_same(adapted(source, frames_dir, settings(), tmp_path / "out", resume=True), whole)
    whole_history = (tmp_path / "whole" / HISTORY).read_text()
    assert (tmp_path / "out" / HISTORY).read_text() == whole_history


@pytest.mark.parametrize(
    "assignments",
    [
        ("training.optimizer=adamw",),
        ("training.nesterov=true", "training.channels_last=false"),
        ("training.amp=bf16",),
        ("training.micro_batch=1",),
        ("iapc.variant=paper", "training.frame_size=[48,32]", "training.crop_size=[32,32]"),
        ("iapc.prototypes=momentum", "iapc.pseudo_labels=offline"),
    ],
    ids=lambda assignments: assignments[0],
)
def test_resume_is_exact_with_other_settings(
    assignments: tuple[str, ...],
    source: Bundle,
    frames_dir: Path,
    tmp_path: Path,
    settings: Settings,
) -> None:
    config = settings(*assignments, "training.steps=5")
    whole = adapted(source, frames_dir, config, tmp_path / "whole")

    for _ in range(2):  # the second resumes, and dies at the same step
        with pytest.raises(Killed):
            adapted(
                source,
                frames_dir,
                config,
                tmp_path / "out",
                report=kill_at(4),
                resume=True,
                checkpoint_every_s=0,
            )
    assert_same(adapted(source, frames_dir, config, tmp_path / "out", resume=True), whole)


@pytest.mark.slow
def test_wherever_a_run_asks_whether_to_stop_it_can_be_resumed(
    source: Bundle, frames_dir: Path, tmp_path: Path, settings: Settings
) -> None:
    polls = Polls()
    config = settings("iapc.pseudo_labels=offline")
    whole = adapted(source, frames_dir, config, tmp_path / "whole", stop_requested=polls.stop_at(0))
    places = polls.count
    frames = len(list(frames_dir.iterdir()))
    assert places >= 1 + frames + config.training.steps + 1  # warm start, labels, steps, final
    for number in range(1, places + 1):
        out = tmp_path / f"out-{number}"
        with pytest.raises(RunInterrupted, match="resume=True"):
            adapted(source, frames_dir, config, out, stop_requested=polls.stop_at(number))
        assert not out.exists()
        assert_same(adapted(source, frames_dir, config, out, resume=True), whole)


# --- what may not change -------------------------------------------------------------------------


@pytest.fixture
def stopped(
    source: Bundle,
    frames_dir: Path,
    tmp_path: Path,
    settings: Settings,
    after_one_step: dict[str, Any],
) -> Path:
    """The path of a bundle whose run was stopped after its first step."""
    with pytest.raises(RunInterrupted):
        adapted(source, frames_dir, settings(), tmp_path / "out", **after_one_step)
    return tmp_path / "out"


@pytest.mark.parametrize(
    "assignment", ["training.lr=2e-3", "seed=1", "iapc.weight_pe=0.3", "training.steps=5"]
)
def test_another_setting_is_refused_and_the_run_stays_resumable(
    assignment: str, stopped: Path, source: Bundle, frames_dir: Path, settings: Settings
) -> None:
    with pytest.raises(TrainingError, match=r"other frames, settings or source model.*resume=True"):
        adapted(source, frames_dir, settings(assignment), stopped, resume=True)
    adapted(source, frames_dir, settings(), stopped, resume=True)


def test_other_frames_are_refused_and_the_run_stays_resumable(
    stopped: Path, source: Bundle, frames_dir: Path, tmp_path: Path, settings: Settings
) -> None:
    whole = adapted(source, frames_dir, settings(), tmp_path / "whole")
    namesakes = tmp_path / "namesakes"
    namesakes.mkdir()
    paths = sorted(frames_dir.iterdir())
    for path, other in zip(paths, reversed(paths), strict=True):
        (namesakes / path.name).write_bytes(other.read_bytes())
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    (fewer / paths[0].name).write_bytes(paths[0].read_bytes())
    for frames in (fewer, namesakes):
        with pytest.raises(TrainingError, match="other frames"):
            adapted(source, frames, settings(), stopped, resume=True)
    assert_same(adapted(source, frames_dir, settings(), stopped, resume=True), whole)


def test_another_source_model_is_refused(
    stopped: Path, source: Bundle, frames_dir: Path, tmp_path: Path, settings: Settings
) -> None:
    other = adapt_bundle(source, [frames_dir], settings(), RunOptions(tmp_path / "another"))
    with pytest.raises(TrainingError, match="source model"):
        adapted(other, frames_dir, settings(), stopped, resume=True)


def test_a_damaged_checkpoint_is_one_sentence(
    stopped: Path, source: Bundle, frames_dir: Path, settings: Settings
) -> None:
    checkpoint = stopped.with_name("out.run") / CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(TrainingError, match=r"checkpoint is damaged.*start again\.$"):
        adapted(source, frames_dir, settings(), stopped, resume=True)


def test_nothing_to_resume_is_a_new_run(
    source: Bundle, frames_dir: Path, tmp_path: Path, settings: Settings
) -> None:
    whole = adapted(source, frames_dir, settings(), tmp_path / "whole")
    stale = tmp_path / "out.run" / "pseudo_labels"
    stale.mkdir(parents=True)
    (tmp_path / "out.run" / "frames.json").write_text("{}")
    assert_same(adapted(source, frames_dir, settings(), tmp_path / "out", resume=True), whole)


def test_changing_the_source_frames_does_not_change_a_run_that_goes_on(
    source: Bundle,
    frames_dir: Path,
    tmp_path: Path,
    settings: Settings,
    after_one_step: dict[str, Any],
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for path in frames_dir.iterdir():
        (frames / path.name).write_bytes(path.read_bytes())
    whole = adapted(source, frames, settings(), tmp_path / "whole")
    with pytest.raises(RunInterrupted):
        adapted(source, frames, settings(), tmp_path / "out", **after_one_step)
    next(frames.iterdir()).unlink()
    assert_same(adapted(source, frames, settings(), tmp_path / "out", resume=True), whole)


def test_training_a_source_model_resumes_exactly_and_refuses_other_labels(
    frames_dir: Path,
    tmp_path: Path,
    settings: Settings,
    label_dir: Callable[[Path], Path],
    after_one_step: dict[str, Any],
) -> None:
    labels = label_dir(tmp_path / "labels")
    space = LabelSpace("two", ("dark", "light"), ((0, 0, 0), (255, 255, 255)))
    spec = InputSpec(width=48, height=32, mean=(110, 115, 120), std=(60, 58, 57))
    config = settings("training.steps=4", "training.warmup_steps=2", method="supervised")

    def train(out: str, labels: Path = labels, **options: Any) -> dict[str, Tensor]:
        job = run_options(tmp_path / out, **options)
        network = NetworkSpec(name="tiny_network:build")
        bundle = train_bundle(frames_dir, labels, space, network, spec, config, job)
        return load_file(bundle.path / "model.safetensors")

    whole = train("whole")
    with pytest.raises(RunInterrupted):
        train("out", **after_one_step)
    with pytest.raises(TrainingError, match="other frames"):
        train("out", labels=label_dir(tmp_path / "other"), resume=True)
    assert_same(train("out", resume=True), whole)


@pytest.fixture
def label_dir(frames_dir: Path) -> Callable[[Path], Path]:
    """Makes a folder of label maps: 1 where a frame is light."""

    def make(folder: Path) -> Path:
        folder.mkdir()
        for path in frames_dir.iterdir():
            light = (read_image(path).mean(axis=2) > 127).astype("uint8")
            assert cv2.imwrite(str(folder / path.name), light)
        return folder

    return make


# --- two stages, with state of their own ---------------------------------------------------------


class Pull(Stage):
    """Pulls the logits towards random targets drawn at the beginning, with a moving average."""

    def __init__(self, name: str, only_classifier: bool) -> None:
        self.name = name
        self.only_classifier = only_classifier

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        self.model, self.normalise = model.train(), context.normalise
        self.targets = torch.randn(model.num_classes)
        self.start = torch.cat([p.detach().flatten() for p in model.parameters()]).clone()
        self.average = torch.zeros(model.num_classes)

    def parameter_groups(self, model: SegmentationNetwork, factor: float) -> list[ParameterGroup]:
        groups = super().parameter_groups(model, factor)
        return groups[1:] if self.only_classifier else groups

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        mean = self.model(self.normalise(batch.augmented)).logits.mean(dim=(0, 2, 3))
        self.average.lerp_(mean.detach(), 0.1)
        now = torch.cat([p.flatten() for p in self.model.parameters()])
        return {
            "pull": (mean + self.average - self.targets).square().sum(),
            "stay": 0.01 * (now - self.start).square().sum(),
        }

    def after_step(self) -> None:
        self.average.mul_(1.01)

    def touched(self) -> list[Tensor]:
        return [self.average]

    def state(self) -> dict[str, Tensor]:
        return {"average": self.average}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.average.copy_(tensors["average"])


def two_stages() -> list[Stage]:
    return [Pull("all", only_classifier=False), Pull("classifier", only_classifier=True)]


@pytest.mark.parametrize("at", range(1, 8))
def test_a_method_of_two_stages_resumes_exactly(
    at: int, make_trainer: Callable[..., Trainer], network: Callable[..., SegmentationNetwork]
) -> None:
    steps = ("training.steps=7", "training.lr=1e-2")
    whole = network()
    summary = make_trainer(whole, two_stages(), *steps).run()
    history = (make_trainer(whole, []).context.workdir / HISTORY).read_text()
    assert summary.steps == 7

    again = network()
    with pytest.raises(Killed):
        make_trainer(again, two_stages(), *steps, report=kill_at(at), checkpoint_every_s=0).run()
    resumed = network(seed=5)  # whatever the model holds, the checkpoint counts
    trainer = make_trainer(resumed, two_stages(), *steps, resume=True)
    assert trainer.run().steps == 7
    assert_same(resumed.state_dict(), whole.state_dict())
    assert (trainer.context.workdir / HISTORY).read_text() == history
    stages = [json.loads(line)["stage"] for line in history.splitlines()]
    assert stages == ["all"] * 3 + ["classifier"] * 4


def test_a_step_thrown_away_before_a_kill_counts_after_it(
    make_trainer: Callable[..., Trainer], network: Callable[..., SegmentationNetwork]
) -> None:
    class Bad(Pull):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            terms = super().losses(batch)
            self.calls = getattr(self, "calls", 0) + 1
            return {name: term * float("nan") for name, term in terms.items()}

    limit = ("training.steps=9", "training.max_bad_steps=3")

    options = {"checkpoint_every_s": 0.0, "resume": True}
    with pytest.raises(Killed):
        make_trainer(network(), [Bad("bad", False)], *limit, report=kill_at(2), **options).run()
    stage = Bad("bad", False)
    with pytest.raises(TrainingError, match="3 steps in a row"):
        make_trainer(network(), [stage], *limit, **options).run()
    assert stage.calls == 2  # step 1 was in the checkpoint, step 2 not yet
