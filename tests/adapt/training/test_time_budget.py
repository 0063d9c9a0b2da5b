"""A time budget bounds everything that a run does, by a clock that passes of the network move."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_clock
import torch
from hypothesis import given
from hypothesis import strategies as st
from roadshift.adapt import METHODS, adapt_bundle
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch
from roadshift.adapt.judging import judge as judge_module
from roadshift.adapt.losses.backends.reference import pixel_entropy
from roadshift.adapt.methods import Stage
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.pseudo_labels.labeller import Labeller
from roadshift.adapt.run import budget as budget_module
from roadshift.adapt.run.budget import MOST_KEPT_BACK, RESERVE, Deadline, Repeated
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.run.work import PreparedFrames, Work, spread
from roadshift.adapt.scoring.timing import seconds_once_warm
from roadshift.adapt.training import trainer as trainer_module
from roadshift.adapt.training.trainer import Trainer
from roadshift.adapt.workflows import whole_run as whole_run_module
from roadshift.runtime.arguments import ProgressUpdate
from roadshift.runtime.bundle import Bundle
from run_cases import Killed, assert_same, kill_at, run_options
from run_clock import A_FRAME_S, Clock
from safetensors.torch import load_file
from torch import Tensor

Settings = Callable[..., RunConfig]


# --- whole runs ----------------------------------------------------------------------------------


def run(
    source: Bundle,
    frames: Path,
    config: RunConfig,
    out: Path,
    gated: bool = True,
    **options: Any,
) -> Bundle:
    job = run_options(out, overwrite=True, **options)
    return adapt_bundle(source, [frames], config, job, gated=gated)


@pytest.mark.usefixtures("slow_network")
@pytest.mark.parametrize("budget", [0.4, 4.0, 24.0])
@pytest.mark.parametrize(
    "setting",
    [
        "iapc.prototypes=static",
        "iapc.pseudo_labels=offline",
        "pseudo.min_confidence=0.5",
        "ld.threshold_of=any_class",
        "ld.refresh_epochs=1",
        "atp.consistency=probabilities",
    ],
)
def test_no_setting_takes_longer_than_the_budget(
    setting: str,
    budget: float,
    clock: Clock,
    source: Bundle,
    recording: Path,
    tmp_path: Path,
    settings: Settings,
) -> None:
    method = setting.partition(".")[0]
    cached = ["teacher_cache=true"] if METHODS[method].asks_frozen_teacher else []
    config = settings(setting, *cached, "training.steps=300", "tone=none", method=method)
    began = clock.now
    bundle = run(source, recording, config, tmp_path / "out", time_budget_s=budget)
    # A network of a user's own is tried out in both modes, and then twice forward and backward.
    loading = (9 + 13) * A_FRAME_S
    assert clock.now - began <= 1.2 * budget + loading
    outcome: Any = bundle.manifest.provenance.configuration["outcome"]
    assert outcome["steps"] < 300


@pytest.mark.usefixtures("slow_network")
@pytest.mark.parametrize("patience", [None, 60.0])
def test_without_a_budget_patience_bounds_what_grows_with_the_frames(
    patience: float | None,
    clock: Clock,
    source: Bundle,
    recording: Path,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_clock, "A_FRAME_S", 0.12)
    notes: list[str] = []
    prepared: list[float] = []
    config = settings("training.steps=40", "tone=none", method="nightshift")
    began = clock.now

    def note(sentence: str) -> None:
        notes.append(sentence)
        if sentence.startswith("nightshift learns from"):
            prepared.append(clock.now - began)

    run(source, recording, config, tmp_path / "out", patience_s=patience, note=note)
    cut = [n for n in notes if "for more the default of 1 minute leaves no time" in n]
    assert bool(cut) == bool(prepared) == (patience is not None)
    if patience is not None:
        assert prepared[0] < patience


@pytest.mark.usefixtures("slow_network")
@pytest.mark.parametrize("patience", [None, 60.0])
def test_without_a_budget_patience_bounds_the_warm_start(
    patience: float | None,
    clock: Clock,
    source: Bundle,
    recording: Path,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_clock, "A_FRAME_S", 0.5)
    notes: list[tuple[float, str]] = []
    config = settings("training.steps=1", "tone=none", method="tent")
    began = clock.now

    def note(sentence: str) -> None:
        notes.append((clock.now - began, sentence))

    run(source, recording, config, tmp_path / "out", patience_s=patience, note=note)
    cut = [
        at for at, n in notes if n.startswith(("warm start:", "finding")) and "leaves no time" in n
    ]
    assert bool(cut) == (patience is not None)
    if patience is not None:
        assert max(cut) < patience


@pytest.mark.usefixtures("slow_network")
@pytest.mark.parametrize(
    ("method", "file_s", "budget", "judged"),
    [("nightshift", 0.2, 60.0, True), ("nightshift", 1.5, 40.0, False), ("iapc", 1.5, 30.0, False)],
)
def test_judging_and_publishing_of_large_weights_fit_the_budget(
    method: str,
    file_s: float,
    budget: float,
    judged: bool,
    clock: Clock,
    source: Bundle,
    recording: Path,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(do: Callable[..., Any], files: int) -> Callable[..., Any]:
        def slowly(*given: Any, **named: Any) -> Any:
            clock.now += files * file_s
            return do(*given, **named)

        return slowly

    for module, name, files in (
        (trainer_module, "write_tensors", 1),
        (trainer_module, "read_tensors", 1),
        (judge_module, "load_network", 2),
        (judge_module, "read_weights", 1),
        (whole_run_module, "save_weights", 2),
    ):
        monkeypatch.setattr(module, name, slow(getattr(module, name), files))
    config = settings("training.steps=300", "tone=none", method=method)
    began = clock.now
    bundle = run(source, recording, config, tmp_path / "out", time_budget_s=budget)
    assert clock.now - began <= budget
    outcome: Any = bundle.manifest.provenance.configuration["outcome"]
    assert outcome["steps"] > 0
    verdict = bundle.manifest.verdict
    assert verdict is not None
    assert (verdict.frames >= 4) == judged, verdict.sentence


@pytest.mark.usefixtures("slow_network")
def test_a_budget_with_room_is_the_run_without_one_but_for_rounding(
    source: Bundle, recording: Path, tmp_path: Path, settings: Settings
) -> None:
    config = settings("training.steps=6", "tone=auto", method="nightshift")
    weights = []
    for name, budget in (("free", None), ("roomy", 1e6)):
        bundle = run(source, recording, config, tmp_path / name, time_budget_s=budget)
        weights.append(load_file(bundle.path / "model.safetensors"))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("slow_network", "one_thread")
@pytest.mark.parametrize(("method", "budget"), [("nightshift", 60.0), ("atp", 50.0), ("ld", 34.0)])
def test_a_run_cut_short_in_its_preparation_resumes_bit_for_bit(
    method: str,
    budget: float,
    source: Bundle,
    recording: Path,
    tmp_path: Path,
    settings: Settings,
) -> None:
    config = settings("training.steps=9", "tone=none", "final_bn=false", method=method)
    notes: list[str] = []
    options: dict[str, Any] = {"gated": False, "time_budget_s": budget, "note": notes.append}
    whole = run(source, recording, config, tmp_path / "whole", **options)
    outcome: Any = whole.manifest.provenance.configuration["outcome"]
    assert outcome["steps"] == 9
    assert any("frames, evenly spread: for more the time budget" in note for note in notes), notes
    with pytest.raises(Killed):
        run(
            source,
            recording,
            config,
            tmp_path / "out",
            report=kill_at(8),
            checkpoint_every_s=0.0,
            **options,
        )
    kept = sorted((tmp_path / "out.run").glob("stage-*.frames.json"))[-1]
    assert 4 <= len(json.loads(kept.read_text())["frames"]) < 40
    resumed = run(source, recording, config, tmp_path / "out", resume=True, **options)
    one, other = (load_file(b.path / "model.safetensors") for b in (whole, resumed))
    assert_same(one, other)


def test_phases_are_shown_from_their_first_moment(
    source: Bundle, recording: Path, tmp_path: Path, settings: Settings
) -> None:
    phases: list[ProgressUpdate] = []
    config = settings("training.steps=2", "tone=auto", method="nightshift")
    run(source, recording, config, tmp_path / "out", report_phase=phases.append)
    titles = list(dict.fromkeys(phase.task for phase in phases))
    assert titles == [
        "decoding",
        "tone alignment",
        "warm start",
        "looking at frames set aside",
        "preparing align",
        "preparing nightshift",
        "the teacher's batch-norm statistics",
        "labelling frames",
        "final batch-norm statistics",
        "judging",
    ]
    for title in titles:
        first = next(phase for phase in phases if phase.task == title)
        assert (first.done, first.per_s, first.left_s) == (0, 0.0, None)
    labelling = [phase for phase in phases if phase.task == "labelling frames"]
    assert [phase.done for phase in labelling] == list(range(30))
    assert all(phase.total == 29 for phase in labelling)


# --- stages --------------------------------------------------------------------------------------


class Slow(Stage):
    """Takes ``begin_s`` to begin, ``frame_s`` for each frame it prepares, ``step_s`` a step."""

    name = "slow"

    def __init__(self, clock: Clock, begin_s: float, frame_s: float, step_s: float) -> None:
        self.clock, self.begin_s, self.frame_s, self.step_s = clock, begin_s, frame_s, step_s
        self.made: list[int] = []
        self.drawn: set[int] = set()

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        self.model, self.context = model.train(), context
        self.clock.now += self.begin_s
        context.prepare("making", self.made.__contains__, self._make)

    def _make(self, frame: int) -> None:
        self.clock.now += self.frame_s
        self.made.append(frame)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        self.clock.now += self.step_s
        self.drawn |= set(batch.frames)
        logits = self.model(self.context.normalise(batch.clean)).logits
        return {"entropy": pixel_entropy(logits.log_softmax(dim=1)).mean()}


@pytest.mark.parametrize(
    ("begin_s", "frame_s", "step_s", "prepared", "steps"),
    [
        (0.0, 0.5, 1.0, 6, 16),  # all
        (0.0, 2.0, 1.0, 4, 11),  # as many as half of the time has room for
        (0.0, 30.0, 1.0, 1, 0),  # one: too few to learn from
        (50.0, 1.0, 1.0, 1, 0),  # what no one can cut short
    ],
)
def test_a_stage_that_takes_longer_than_the_budget_to_begin(
    begin_s: float,
    frame_s: float,
    step_s: float,
    prepared: int,
    steps: int,
    clock: Clock,
    make_trainer: Callable[..., Trainer],
    network: Callable[..., SegmentationNetwork],
) -> None:
    stage, notes = Slow(clock, begin_s, frame_s, step_s), list[str]()
    trainer = make_trainer(
        network(), [stage], "training.steps=100", time_budget_s=20.0, note=notes.append
    )
    summary = trainer.run()
    assert (len(stage.made), summary.steps) == (prepared, steps)
    assert summary.seconds <= max(24.0, begin_s + frame_s)
    assert stage.drawn <= set(stage.made)
    if prepared < 6:
        assert any("time budget" in note for note in notes)
    if not steps:
        assert "the time budget was too short for a step: the result is the start" in notes


def test_a_stage_left_out_leaves_what_the_one_before_learnt(
    clock: Clock,
    make_trainer: Callable[..., Trainer],
    network: Callable[..., SegmentationNetwork],
) -> None:
    first, second = Slow(clock, 0, 0, 1.0), Slow(clock, 100.0, 0, 1.0)
    model = network()
    make_trainer(
        model, [first, second], "training.steps=12", "weight_interpolation=1", time_budget_s=9.0
    ).run()
    assert not second.drawn
    before = network().get_parameter("classifier.weight")
    assert not torch.equal(model.get_parameter("classifier.weight"), before)


def test_a_step_that_does_not_fit_is_not_begun(
    clock: Clock,
    make_trainer: Callable[..., Trainer],
    network: Callable[..., SegmentationNetwork],
) -> None:
    stage = Slow(clock, 0, 0, 7.0)
    summary = make_trainer(network(), [stage], "training.steps=9", time_budget_s=20.0).run()
    assert summary.steps == 2
    assert summary.seconds <= 20


def test_labels_are_kept_where_labelling_anew_takes_too_long(
    clock: Clock,
    make_trainer: Callable[..., Trainer],
    network: Callable[..., SegmentationNetwork],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []

    def label_frames(*_: Any, **__: Any) -> Any:
        clock.now += 6
        made.append(len(made))
        return made[-1]

    monkeypatch.setattr("roadshift.adapt.pseudo_labels.labeller.label_frames", label_frames)
    monkeypatch.setattr("roadshift.adapt.pseudo_labels.labeller.PseudoLabels", Any)
    notes: list[str] = []
    trainer = make_trainer(network(), [], time_budget_s=20.0)
    context = trainer.context
    object.__setattr__(context, "note", notes.append)
    labeller: Any = Labeller(network(), context, (1.0,), 1)
    assert labeller.current() == 0
    for _ in range(3):
        labeller.after_step()
    clock.now += 2  # 12 s are left, less the reserve
    assert labeller.current() == 0
    assert notes == [
        "the frames keep their labels: labelling takes 6 s, and 11 s are left to adapt"
    ]


# --- the clock -----------------------------------------------------------------------------------


def test_parts_are_shares_of_what_is_left(clock: Clock) -> None:
    deadline = Deadline(100.0)
    clock.now += 15
    with deadline.part(0.5):
        assert deadline.left_s == pytest.approx((100 * RESERVE - 15) / 2)
        with deadline.part(0.5):
            assert deadline.left_s == pytest.approx(20)
            clock.now += 20
            assert deadline.due
        assert not deadline.due
    assert not deadline.passed
    clock.now += 60
    assert deadline.passed


def test_the_end_has_what_was_kept_back_for_it(clock: Clock) -> None:
    deadline = Deadline(100.0)
    deadline.keep_back(30)
    clock.now += 71
    assert deadline.passed
    deadline.begin_end()
    assert not deadline.passed
    assert deadline.left_s == pytest.approx(29)
    greedy = Deadline(100.0)
    greedy.keep_back(1000)
    assert greedy.left_s == pytest.approx(100 * (1 - MOST_KEPT_BACK))


def test_without_a_budget_nothing_is_ever_due(clock: Clock) -> None:
    deadline = Deadline(None)
    with deadline.part(0.1):
        clock.now += 1e9
        assert not deadline.due
    assert not deadline.passed


def test_without_a_budget_patience_bounds_long_parts_alone(clock: Clock) -> None:
    deadline = Deadline(None, patience_s=420.0)
    assert not deadline.limited
    with deadline.part(0.5):
        assert not deadline.limited
    clock.now += 20
    with deadline.part(0.5, of_patience=0.5):
        assert deadline.left_s == 200
        clock.now += 500
        assert deadline.due
    assert not deadline.passed
    with deadline.part(0.5, of_patience=0.5):  # nothing is left
        assert deadline.left_s == 0
    assert deadline.name == "the default of 7 minutes"
    assert Deadline(50.0, patience_s=420.0).name == "the time budget"


def test_a_budget_counts_from_where_the_command_began(clock: Clock) -> None:
    deadline = Deadline(100.0, began=clock.now - 30)
    assert deadline.elapsed_s == 30
    assert deadline.left_s == RESERVE * 100 - 30


def test_what_is_repeated_is_expected_to_take_as_long_as_the_longest_before(clock: Clock) -> None:
    deadline = Deadline(100.0)
    deadline.begin_end()
    deadline.forward_s = 10.0
    assert not Repeated(deadline, passes=11).fits()
    repeated = Repeated(deadline, passes=9)
    times = []
    for seconds in (20.0, 40.0, 5.0, 5.0):
        times.append(repeated.fits())
        clock.now += seconds
    assert times == [True, True, True, False]  # 40 s may come again, and 35 are left


def test_a_first_pass_that_fills_caches_is_not_believed(
    clock: Clock,
    make_trainer: Callable[..., Trainer],
    network: Callable[..., SegmentationNetwork],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, seconds = network(), iter([3.0, 0.5])
    forward = model.forward

    def slow(images: Tensor) -> Any:
        clock.now += next(seconds)
        return forward(images)

    monkeypatch.setattr(model, "forward", slow)
    trainer = make_trainer(model, [], time_budget_s=1000.0)
    trainer.deadline.forward_s = 4.0  # by the search for a tone
    trainer.clock.time_the_network()
    assert trainer.deadline.forward_s == 0.5
    trainer.deadline.forward_s = 400.0  # it is more than a third of the time: not asked again
    trainer.clock.time_the_network()
    assert trainer.deadline.forward_s == 400.0


@pytest.mark.parametrize(("first", "expected"), [(0.9, 0.05), (2.5, 0.05), (4.0, 4.0)])
def test_a_first_pass_with_cold_caches_leaves_a_short_budget_its_steps(
    first: float, expected: float, clock: Clock
) -> None:
    """A pass that leaves no step of the 10 s is tried again, unless that takes a third of them."""
    took = iter([first, 0.05])

    def act() -> None:
        clock.now += next(took)

    deadline = Deadline(10.0)
    deadline.begin_end()
    assert seconds_once_warm(act, deadline) == pytest.approx(expected)


def test_a_run_whose_first_pass_is_slow_takes_its_steps(
    clock: Clock,
    make_trainer: Callable[..., Trainer],
    network: Callable[..., SegmentationNetwork],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, seconds = network(), iter([2.0])
    forward = model.forward

    def slow_at_first(images: Tensor) -> Any:
        clock.now += next(seconds, 0.01)
        return forward(images)

    monkeypatch.setattr(model, "forward", slow_at_first)
    trainer = make_trainer(model, [Slow(clock, 0, 0, 0.3)], "training.steps=9", time_budget_s=15.0)
    assert trainer.run().steps == 9


@given(st.integers(1, 300), st.data())
def test_every_beginning_of_the_order_is_evenly_spread(count: int, data: st.DataObject) -> None:
    order = spread(count)
    assert sorted(order) == list(range(count))
    first = data.draw(st.integers(1, count))
    gaps = np.diff([-1, *sorted(order[:first]), count])
    assert gaps.max() <= 4 * count / first + 2


@given(st.integers(1, 60), st.integers(1, 100))
def test_work_ends_with_its_part(count: int, budget: int) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget_module, "time", clock)
        work = Work(Deadline(float(budget)))
        done: list[int] = []
        with work.deadline.part(1.0):
            for item in work.over(range(count), "counting"):
                clock.now += 1
                done.append(item)
    assert 1 <= len(done) == min(count, max(1, int(budget * RESERVE)))


@pytest.mark.parametrize("chosen", [None, [0, 3, 5]])
def test_prepared_frames_are_those_of_the_first_start(
    chosen: Sequence[int] | None, tmp_path: Path
) -> None:
    first, kept = PreparedFrames(), tmp_path / "stage-0.frames.json"
    first.begin(kept, settled=False)
    first.chosen = None if chosen is None else list(chosen)
    first.settle(kept)
    again = PreparedFrames()
    again.begin(kept, settled=False)
    assert list(again.of(6)) == list(range(6) if chosen is None else chosen)
    assert again.settled == (chosen is not None)
