"""The trainer: schedule, accumulation, bad steps, budgets, history. A tiny network, on a CPU."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch
from roadshift.adapt.methods import Stage, build_stages
from roadshift.adapt.methods.iapc import IapcStage
from roadshift.adapt.methods.iapc_config import IapcConfig
from roadshift.adapt.networks import SegmentationNetwork, mixed_statistics
from roadshift.adapt.run import budget as budget_module
from roadshift.adapt.run.budget import RESERVE, PeakMemory, peak_memory
from roadshift.adapt.run.config import RunConfig, TrainingConfig
from roadshift.adapt.run.workspace import HISTORY
from roadshift.adapt.training import batch_norm_statistics, run_files
from roadshift.adapt.training import memory_fit as memory_fit_module
from roadshift.adapt.training import trainer as trainer_module
from roadshift.adapt.training.memory_fit import SPARE, candidates
from roadshift.adapt.training.optimisation import build_optimizer, learning_rate_factor
from roadshift.adapt.training.trainer import Trainer
from roadshift.runtime.arguments import ProgressUpdate
from roadshift.runtime.errors import OutputError, RunInterrupted, TrainingError
from run_cases import Entropy, Killed, kill_at
from run_clock import Clock
from safetensors.torch import load_file
from torch import Tensor

MakeTrainer = Callable[..., Trainer]
MakeNetwork = Callable[..., SegmentationNetwork]
MIB = 2**20


def history(trainer: Trainer) -> list[dict[str, Any]]:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    lines = (trainer.context.workdir / HISTORY).read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


# --- schedule ------------------------------------------------------------------------------------


def schedule(**training: Any) -> list[float]:
    config = TrainingConfig(**training)
    return [learning_rate_factor(step, config.steps, config) for step in range(config.steps + 1)]


def test_the_schedule_is_poly_to_zero_at_the_last_step() -> None:
    expected = [(1 - step / 10) ** 0.9 for step in range(11)]
    assert schedule(steps=10) == pytest.approx(expected)
    assert schedule(steps=10)[0] == 1
    assert schedule(steps=10)[10] == 0
    assert schedule(steps=3, poly_power=0) == [1, 1, 1, 1]


def test_a_horizon_beyond_the_run_stops_the_decay_short_and_one_before_it_stays_at_zero() -> None:
    assert schedule(steps=9, schedule_steps=100)[9] == pytest.approx(0.91**0.9)
    assert schedule(steps=9, schedule_steps=4)[4:] == [0] * 6


def test_warm_up_rises_linearly_and_meets_the_decay() -> None:
    warm = schedule(steps=20, warmup_steps=5, warmup_factor=0.1)
    plain = schedule(steps=20)
    ratios = [w / p for w, p in zip(warm[:5], plain[:5], strict=True)]
    assert ratios == pytest.approx([0.1, 0.28, 0.46, 0.64, 0.82])
    assert warm[5:] == plain[5:]


def test_a_warm_up_in_place_of_the_decay_knows_nothing_of_it() -> None:
    warm = schedule(steps=20, warmup_steps=5, warmup_factor=0.1, warmup_replaces_decay=True)
    assert warm[:5] == pytest.approx([0.1, 0.28, 0.46, 0.64, 0.82])
    assert warm[5:] == schedule(steps=20)[5:]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_classifier_learns_ten_times_as_fast(optimizer: str, network: MakeNetwork) -> None:
    model, training = network(), TrainingConfig(optimizer=optimizer, lr=2e-3, weight_decay=0.02)
    groups = build_optimizer(Entropy(), model, training).param_groups
    head = {id(p) for p in model.classifier_parameters()}
    assert [group["lr"] for group in groups] == pytest.approx([2e-3, 2e-2])
    assert {id(p) for p in groups[1]["params"]} == head
    assert len(head) == 2
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert all(group["weight_decay"] == 0.02 for group in groups)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_first_gradient_may_come_late(optimizer: str, network: MakeNetwork) -> None:
    model = network()
    made = build_optimizer(Entropy(), model, TrainingConfig(optimizer=optimizer, lr=0.1))
    first, late = model.classifier_parameters()
    for parameters in ((first,), (first, late)):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        before = late.detach().clone()
        made.step()
    assert (late < before).all()


def test_the_learning_rate_of_every_step_follows_the_schedule(
    make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    trainer = make_trainer(
        network(), [Entropy()], "training.steps=6", "training.lr=0.01", "training.warmup_steps=2"
    )
    trainer.run()
    lines = history(trainer)
    expected = [0.01 * learning_rate_factor(step, 6, trainer.training) for step in range(6)]
    assert [line["lr"] for line in lines] == pytest.approx(expected)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


# --- steps ---------------------------------------------------------------------------------------


class Shrink(Stage):
    """Weights of one layer towards zero, without a forward pass; counts its steps."""

    name = "shrink"

    def __init__(self, share: int) -> None:
        self.share, self.calls = share, 0

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        del context
        self.weight = model.get_parameter("classifier.weight")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        del batch
        self.calls += 1
        return {"shrink": self.weight.square().mean()}


@pytest.mark.parametrize(
    ("shares", "steps", "expected"),
    [
        ((2, 1, 1), 80, [40, 20, 20]),
        ((2, 1, 1), 10, [5, 2, 3]),
        ((1, 3), 10, [2, 8]),
        ((5, 1), 3, [2, 1]),
        ((1, 1, 1), 2, [0, 1, 1]),
    ],
)
def test_stages_take_steps_by_their_shares_and_all_steps_are_taken(
    shares: tuple[int, ...],
    steps: int,
    expected: list[int],
    make_trainer: MakeTrainer,
    network: MakeNetwork,
) -> None:
    stages = [Shrink(share) for share in shares]
    settings = (f"training.steps={steps}", "training.batch_size=1", "final_bn=false")
    make_trainer(network(), stages, *settings).run()
    assert [stage.calls for stage in stages] == expected


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_blended_weights_lie_between_the_start_and_the_last_step(
    share: float, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    model = network()
    steps = ("training.steps=4", "training.lr=0.05")
    trainer = make_trainer(model, [Entropy(), Entropy()], *steps, f"weight_interpolation={share}")
    trainer.run()
    start, end = (
        load_file(trainer.context.workdir / f"stage-{stage}.safetensors") for stage in (0, 2)
    )
    for name, parameter in model.named_parameters():
        assert not torch.equal(start[name], end[name]), name
        expected = (1 - share) * start[name].double() + share * end[name].double()
        assert torch.allclose(parameter.double(), expected, atol=1e-6), name


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
@pytest.mark.parametrize("clip", ["training.poly_power=0.9", "training.max_grad_norm=0.05"])
def test_accumulated_micro_batches_equal_the_whole_batch(
    micro_batch: int, clip: str, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    models, lines = [], []
    for micro in (4, micro_batch):
        model = network(norm=False, dropout=0.0)
        trainer = make_trainer(
            model,
            [Entropy()],
            "training.steps=3",
            "training.batch_size=4",
            "training.lr=0.01",
            f"training.micro_batch={micro}",
            clip,
        )
        assert trainer.run().micro_batch == micro
        models.append(model)
        lines.append([line["losses"]["entropy"] for line in history(trainer)])
    assert lines[0] == pytest.approx(lines[1], abs=1e-6)
    start = network(norm=False, dropout=0.0).state_dict()
    moved = 0.0
    for name, whole in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[name], whole, rtol=0, atol=1e-6)
        moved = max(moved, float((whole - start[name]).abs().max()))
    assert moved > 1e-4


def test_dropout_depends_on_seed_and_step_alone(
    make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    results = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        model = network(dropout=0.5)
        trainer = make_trainer(model, [Entropy()], "training.steps=2", f"seed={seed}")
        torch.manual_seed(noise)  # whatever was drawn before the run
        trainer.run()
        results.append(model.state_dict()["classifier.weight"])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_stages_share_the_steps_evenly_and_start_from_the_last_ones_result(
    make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    stages = [Entropy(), Entropy(), Entropy()]
    starts = []
    for stage in stages:
        begin = stage.begin

        def recorded(model: SegmentationNetwork, context: Context, begin: Any = begin) -> None:
            starts.append({name: t.clone() for name, t in model.state_dict().items()})
            begin(model, context)

        stage.begin = recorded  # type: ignore[method-assign]
    reports: list[ProgressUpdate] = []
    trainer = make_trainer(network(), stages, "training.steps=10", report=reports.append)
    assert trainer.run().steps == 10
    assert [stage.calls for stage in stages] == [3, 3, 4]
    assert [line["step"] for line in history(trainer)] == list(range(1, 11))
    assert [(report.done, report.total) for report in reports] == [(n, 10) for n in range(1, 11)]
    for earlier, later in itertools.pairwise(starts):
        assert not torch.equal(earlier["classifier.weight"], later["classifier.weight"])


def test_a_run_of_no_steps_leaves_the_weights(
    make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    model = network()
    assert make_trainer(model, [Entropy()], "training.steps=0").run().steps == 0
    for name, parameter in network().named_parameters():
        assert torch.equal(model.get_parameter(name), parameter)


def test_history_is_json_with_every_loss_and_their_total(
    make_trainer: MakeTrainer, network: MakeNetwork, settings: Callable[..., RunConfig]
) -> None:
    every_term = settings("iapc.weight_im=0.2")
    trainer = make_trainer(network(), build_stages(every_term), "training.steps=2")
    trainer.run()
    lines = history(trainer)
    assert len(lines) == 2
    for line in lines:
        assert line["stage"] == "iapc"
        total = line["losses"].pop("total")
        assert set(line["losses"]) == {"importance", "agreement", "prototype", "entropy"}
        assert total == pytest.approx(sum(line["losses"].values()), rel=1e-6)


# --- bad steps -----------------------------------------------------------------------------------


def bad_at(*steps: int) -> Callable[[int], float]:
    return lambda call: float("nan") if call in steps else 1.0


class BadIapc(IapcStage):
    """IAPC whose total is not finite, though all of its state has moved."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {**super().losses(batch), "bad": torch.tensor(float("inf"), requires_grad=True)}


def test_a_bad_step_leaves_weights_buffers_and_stage_as_they_were(
    make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    recipe = {"class_balance": "rare", "prototypes": "momentum", "memory_mode": "train"}
    recipe |= {"clean_pass": True}
    stage = BadIapc(IapcConfig(**recipe))
    before: dict[str, Tensor] = {}
    begin = stage.begin

    def recorded(model: SegmentationNetwork, context: Context) -> None:
        begin(model, context)
        before.update({f"model.{n}": t.clone() for n, t in model.state_dict().items()})
        before.update({f"stage.{n}": t.clone() for n, t in stage.state().items()})

    stage.begin = recorded  # type: ignore[method-assign]
    notes: list[str] = []
    trainer = make_trainer(
        network(), [stage], "training.steps=2", "final_bn=false", note=notes.append
    )
    with pytest.raises(TrainingError, match=r"all 2 steps were thrown .*nothing is published"):
        trainer.run()
    assert trainer.state.skipped_steps == 2
    assert trainer.state.done == 2
    assert "step 2 skipped: loss not finite (bad, total)" in notes
    assert "shared_prototypes" in stage.state()
    for name, tensor in stage.state().items():
        assert torch.equal(tensor, before[f"stage.{name}"]), name
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[f"model.{name}"]), name
    assert [line["losses"]["bad"] for line in history(trainer)] == [None, None]


def test_a_gradient_that_is_not_finite_is_a_bad_step(
    make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    class Cusp(Entropy):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            weight = self.model.get_parameter("classifier.bias")
            return {**super().losses(batch), "cusp": (weight - weight.detach()).sqrt().sum()}

    notes: list[str] = []
    model = network()
    trainer = make_trainer(model, [Cusp()], "training.steps=1", note=notes.append)
    with pytest.raises(TrainingError, match="the only step was thrown away"):
        trainer.run()
    assert "step 1 skipped: gradient not finite" in notes
    assert torch.equal(
        model.get_parameter("classifier.bias"), network().get_parameter("classifier.bias")
    )


def test_one_bad_micro_batch_throws_the_step_away(
    make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    model = network()
    trainer = make_trainer(
        model, [Entropy(bad_at(2))], "training.steps=1", "training.micro_batch=1"
    )
    with pytest.raises(TrainingError, match="the only step was thrown away"):
        trainer.run()
    assert torch.equal(model.get_parameter("first.weight"), network().get_parameter("first.weight"))


def test_bad_steps_in_a_row_end_the_run_and_good_ones_between_do_not(
    make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    limits = ("training.steps=9", "training.max_bad_steps=3")
    stage = Entropy(bad_at(1, 2, 4, 5, 7, 8))
    assert make_trainer(network(), [stage], *limits).run().skipped_steps == 6
    stage = Entropy(bad_at(3, 4, 5))
    with pytest.raises(
        TrainingError, match=r"3 steps in a row.*loss not finite \(entropy, total\)"
    ):
        make_trainer(network(), [stage], *limits).run()
    assert stage.calls == 5


def test_the_search_for_fp16s_scale_is_no_error(
    make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    stage = Entropy(lambda call: 1e3 if call < 18 else float("nan"))
    trainer = make_trainer(network(), [stage], "training.steps=20", "training.max_bad_steps=1")
    # fp16's scaler, in float32: 1e3 times the loss overflows until the scale has been halved often.
    trainer.precision._scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    trainer.precision._found_scale = False
    with pytest.raises(TrainingError, match="1 step in a row was thrown away"):
        trainer.run()
    assert stage.calls == 18  # once it was found, one bad step is one too many
    assert 2 < trainer.state.skipped_steps < 18


def test_fp16s_scale_survives_a_resume_between_stages(
    make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    def trainer_with_scale(scale: float, second: Callable[[int], float], **options: Any) -> Trainer:
        stages = [Entropy(), Entropy(second)]
        trainer = make_trainer(network(), stages, "training.steps=2", **options)
        trainer.precision._scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1)
        return trainer

    def kill(_: int) -> float:
        raise Killed

    with pytest.raises(Killed):
        trainer_with_scale(4.0, kill).run()  # doubled by the first stage's step

    def record(_: int) -> float:
        state = resumed.precision.state()
        assert state is not None
        scales.append(state["scale"])
        return 1.0

    scales: list[float] = []
    resumed = trainer_with_scale(1.0, record, resume=True)
    resumed.run()
    assert scales == [8.0]


# --- time ----------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (budget_module, run_files):
        monkeypatch.setattr(module, "time", clock)
    return clock


def slow(clock: Clock, seconds: Callable[[int], float] = lambda _: 1.0) -> Entropy:
    """A stage whose n-th step takes so many seconds."""

    def factor(call: int) -> float:
        clock.now += seconds(call)
        return 1.0

    return Entropy(factor)


def test_a_time_budget_lowers_the_steps_and_the_schedule_ends_with_them(
    clock: Clock, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    trainer = make_trainer(network(), [slow(clock)], "training.steps=100", time_budget_s=40.0)
    summary = trainer.run()
    assert summary.steps == 38  # 0.95 of 40 s at 1 s each
    assert summary.seconds <= 40
    lines = history(trainer)
    assert [line["step"] for line in lines] == list(range(1, 39))
    expected = learning_rate_factor(37, 38, trainer.training)
    assert lines[-1]["lr"] == pytest.approx(trainer.training.lr * expected)


def test_patience_lowers_the_steps_of_a_run_without_a_budget_and_says_so(
    clock: Clock, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    notes: list[str] = []
    trainer = make_trainer(
        network(), [slow(clock)], "training.steps=100", patience_s=40.0, note=notes.append
    )
    assert trainer.run().steps == 40
    assert any("40 of 100 steps" in note and "training.steps=100" in note for note in notes)


def test_patience_is_no_budget_where_there_is_one_and_says_nothing_where_all_steps_fit(
    clock: Clock, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    notes: list[str] = []
    trainer = make_trainer(
        network(), [slow(clock)], "training.steps=30", patience_s=40.0, note=notes.append
    )
    assert trainer.run().steps == 30
    assert not any("steps" in note for note in notes)
    bounded = make_trainer(
        network(), [slow(clock)], "training.steps=30", time_budget_s=20.0, patience_s=40.0
    )
    assert bounded.run().steps == 19


def test_a_budget_with_room_changes_nothing(
    clock: Clock, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    trainer = make_trainer(network(), [slow(clock)], "training.steps=12", time_budget_s=40.0)
    assert trainer.run().steps == 12


def test_steps_that_turn_slower_than_planned_end_at_the_budget(
    clock: Clock, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    stage = slow(clock, lambda call: 1.0 if call < 10 else 5.0)
    trainer = make_trainer(network(), [stage], "training.steps=100", time_budget_s=40.0)
    summary = trainer.run()
    assert summary.seconds <= 40 * RESERVE + 5
    assert summary.steps == stage.calls == len(history(trainer))


def test_a_time_budget_is_shared_by_stages_without_repeating_a_step(
    clock: Clock, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    stages = [slow(clock), slow(clock)]
    trainer = make_trainer(network(), stages, "training.steps=14", time_budget_s=10.0)
    assert trainer.run().steps == 9
    assert [stage.calls for stage in stages] == [6, 3]  # six are timed before it is known
    assert [line["step"] for line in history(trainer)] == list(range(1, 10))


def test_a_run_resumed_after_its_plan_was_lowered_goes_on_where_it_was(
    clock: Clock, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    calls = []
    for kill, resume in ((12, False), (23, True), (0, True)):
        stages = [slow(clock), slow(clock)]
        trainer = make_trainer(
            network(),
            stages,
            "training.steps=40",
            time_budget_s=30.0 if not resume else 36.0,
            report=kill_at(kill),
            resume=resume,
            checkpoint_every_s=0,
        )
        if kill:
            with pytest.raises(Killed):
                trainer.run()
        else:
            summary = trainer.run()
        calls.append([stage.calls for stage in stages])
    assert [line["step"] for line in history(trainer)] == list(range(1, summary.steps + 1))
    assert summary.steps == 28  # 0.95 of 30 s, planned in the first attempt
    assert calls == [[12, 0], [3, 9], [0, 6]]


def test_the_budget_counts_the_warm_start_and_what_came_before_a_resume(
    clock: Clock,
    make_trainer: MakeTrainer,
    network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
    after_one_step: dict[str, Any],
) -> None:
    reestimate = batch_norm_statistics.target_statistics

    def slowly(*arguments: Any) -> Any:
        clock.now += 7
        return reestimate(*arguments)

    for module in (batch_norm_statistics, mixed_statistics):
        monkeypatch.setattr(module, "target_statistics", slowly)
    options = {"time_budget_s": 20.0, "resume": True, "checkpoint_every_s": 0.0}
    stop = make_trainer(network(), [slow(clock)], "training.steps=99", **after_one_step, **options)
    with pytest.raises(RunInterrupted):
        stop.run()
    clock.now += 1000  # between the two
    trainer = make_trainer(network(), [slow(clock)], "training.steps=99", **options)
    summary = trainer.run()
    assert summary.steps == 12  # 7 s of warm start and 12 s of steps
    assert summary.seconds == pytest.approx(7 + 12 + 7)


def test_checkpoints_come_at_the_interval(
    clock: Clock,
    make_trainer: MakeTrainer,
    network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved = []
    save = run_files.save_checkpoint

    def record(path: Path, tensors: Any, state: Any) -> None:
        saved.append(state.done)
        save(path, tensors, state)

    monkeypatch.setattr(run_files, "save_checkpoint", record)
    make_trainer(network(), [slow(clock)], "training.steps=10", checkpoint_every_s=4.0).run()
    assert saved == [0, 4, 8, 10]


def test_progress_tells_rate_and_remaining_time(
    clock: Clock, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    reports: list[ProgressUpdate] = []
    stage = slow(clock, lambda _: 0.5)
    make_trainer(network(), [stage], "training.steps=8", report=reports.append).run()
    assert reports[0].left_s == 0  # nothing timed yet
    for report in reports[1:]:
        assert report.per_s == pytest.approx(2.0)
        assert report.left_s == pytest.approx((8 - report.done) / 2)
    assert set(reports[-1].losses) == {"entropy", "total"}


# --- memory --------------------------------------------------------------------------------------


@pytest.fixture
def mib_a_frame(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes a pass of n frames peak at 100 n MiB; gives the passes that were measured."""
    measured: list[int] = []
    in_losses: list[int] = []
    losses = Entropy.losses

    def counted(self: Entropy, batch: Batch) -> dict[str, Tensor]:
        in_losses.append(len(batch.frames))
        return losses(self, batch)

    @contextmanager
    def fake(_: torch.device) -> Iterator[PeakMemory]:
        peak = PeakMemory()
        in_losses.clear()
        try:
            yield peak
        finally:
            peak.bytes = 100 * MIB * max(in_losses, default=0)
            measured.append(max(in_losses, default=0))

    monkeypatch.setattr(Entropy, "losses", counted)
    for module in (trainer_module, memory_fit_module):
        monkeypatch.setattr(module, "peak_memory", fake)
    return measured


SIX = ("training.steps=2", "training.batch_size=6")


def test_a_memory_budget_is_tried_from_one_frame_on_and_never_exceeded(
    mib_a_frame: list[int], make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    budgeted = network()
    notes: list[str] = []
    options = {"memory_budget_bytes": 250 * MIB, "note": notes.append}
    summary = make_trainer(budgeted, [Entropy()], *SIX, "final_bn=false", **options).run()
    assert mib_a_frame == [0, 1, 2, 2]  # before any, two tries, then the run; three take 300 MiB
    assert summary.micro_batch == 2
    assert "micro-batch 2: a step peaks at 200 MiB" in notes
    chosen = network()
    make_trainer(chosen, [Entropy()], *SIX, "final_bn=false", "training.micro_batch=2").run()
    for name, tensor in chosen.state_dict().items():  # trying left no trace
        assert torch.equal(budgeted.state_dict()[name], tensor), name


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 24])
@pytest.mark.parametrize("frames_that_fit", [1, 2, 3, 8, 100])
def test_no_try_is_above_the_budget(
    batch_size: int,
    frames_that_fit: int,
    mib_a_frame: list[int],
    make_trainer: MakeTrainer,
    network: MakeNetwork,
) -> None:
    budget = (100 * frames_that_fit + 50) * MIB
    steps = ("training.steps=1", f"training.batch_size={batch_size}", "final_bn=false")
    trainer = make_trainer(network(), [Entropy()], *steps, memory_budget_bytes=budget)
    summary = trainer.run()
    assert max(mib_a_frame) <= frames_that_fit
    assert summary.micro_batch == max(n for n in candidates(batch_size) if n <= frames_that_fit)
    assert summary.micro_batch >= min(2, batch_size, frames_that_fit)


def test_a_micro_batch_lowered_by_the_budget_says_what_it_changes(
    mib_a_frame: list[int], make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    class Mixing(Entropy):
        name, mixes = "mixing", True

    for fits, said in (
        (1, ["one frame at a time, not from the 6", "mixing: frames are not mixed"]),
        (3, ["from 3 frames at a time, not from the 6"]),
        (6, []),
    ):
        notes: list[str] = []
        options = {"memory_budget_bytes": (100 * fits + 50) * MIB, "note": notes.append}
        summary = make_trainer(network(), [Mixing()], *SIX, **options).run()
        assert summary.micro_batch == fits
        assert len(summary.micro_batch_changes) == len(said)
        for sentence, part in zip(summary.micro_batch_changes, said, strict=True):
            assert part in sentence
            assert f"because of memory_budget_mib {sentence}" in notes
    assert mib_a_frame


def test_a_micro_batch_that_a_user_sets_says_what_it_changes(
    make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    notes: list[str] = []
    make_trainer(network(), [Entropy()], *SIX, "training.micro_batch=2", note=notes.append).run()
    said = "batch norm takes its statistics from 2 frames at a time, not from the 6 of a batch"
    assert f"training.micro_batch=2: {said}" in notes
    notes.clear()
    plain = network(norm=False)
    make_trainer(plain, [Entropy()], *SIX, "training.micro_batch=2", note=notes.append).run()
    assert not any("micro_batch" in note for note in notes)


def test_every_stage_is_fitted_for_it_may_need_more_than_the_last(
    mib_a_frame: list[int], make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    class Larger(Entropy):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            if len(batch.frames) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().losses(batch)

    options = {"memory_budget_bytes": 350 * MIB}
    trainer = make_trainer(network(), [Entropy(), Larger()], *SIX, **options)
    assert trainer.run().micro_batch == 1
    assert mib_a_frame


def test_a_budget_below_one_frame_is_an_error(
    mib_a_frame: list[int], make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    with pytest.raises(
        TrainingError, match=r"one frame at a time needs 100 MiB.*memory_budget_mib"
    ):
        make_trainer(network(), [Entropy()], *SIX, memory_budget_bytes=99 * MIB).run()
    assert mib_a_frame == [0, 1, 1]  # the last is the run's own measure


def test_the_optimisers_moments_count(
    mib_a_frame: list[int], make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    budget = math.ceil(100 * MIB / (1 - SPARE))  # not a byte is left for them
    with pytest.raises(TrainingError, match="100 MiB"):
        make_trainer(network(), [Entropy()], *SIX, memory_budget_bytes=budget).run()
    assert mib_a_frame


def test_running_out_of_memory_is_a_try_that_did_not_fit(
    make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    class Greedy(Entropy):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            if len(batch.frames) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().losses(batch)

    steps = ("training.steps=1", "training.batch_size=4")
    summary = make_trainer(network(), [Greedy()], *steps, memory_budget_bytes=2**50).run()
    assert summary.micro_batch == 2


def test_a_resumed_run_keeps_its_micro_batches(
    mib_a_frame: list[int],
    make_trainer: MakeTrainer,
    network: MakeNetwork,
    after_one_step: dict[str, Any],
) -> None:
    with pytest.raises(RunInterrupted):
        make_trainer(
            network(),
            [Entropy()],
            *SIX,
            memory_budget_bytes=350 * MIB,
            **after_one_step,
        ).run()
    mib_a_frame.clear()
    options = {"memory_budget_bytes": 150 * MIB, "resume": True}
    assert make_trainer(network(), [Entropy()], *SIX, **options).run().micro_batch == 3
    assert len(mib_a_frame) == 1  # nothing was tried


def test_nested_measurements_do_not_hide_a_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    in_use, high = 10 * MIB, 10 * MIB

    def use(mib: int) -> None:
        nonlocal high
        high = max(high, in_use + mib * MIB)

    def reset() -> None:
        nonlocal high
        high = in_use

    monkeypatch.setattr(budget_module, "peak_memory_mib", lambda: high / MIB)
    monkeypatch.setattr(budget_module, "reset_peak_memory", reset)
    cpu = torch.device("cpu")
    with peak_memory(cpu) as outer:
        use(64)
        with peak_memory(cpu) as inner:
            use(8)
    assert (outer.mib, inner.mib) == (74, 18)


def test_the_peak_of_a_process_counts_what_it_holds() -> None:
    with peak_memory(torch.device("cpu")) as peak:
        kept = np.ones(64 * MIB // 8)
    assert peak.bytes > kept.nbytes


# --- disk ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [HISTORY, "checkpoint.safetensors.tmp", "stage-1.safetensors.tmp"])
def test_a_disk_that_fills_up_is_an_output_error_and_the_run_can_go_on(
    file: str,
    make_trainer: MakeTrainer,
    network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = ("training.steps=4", "training.lr=0.01")
    whole = network()
    make_trainer(whole, [Entropy()], *steps).run()
    opened = Path.open
    stage = Entropy()

    def open_or_refuse(path: Path, mode: str = "r", **rest: Any) -> Any:
        if path.name == file and stage.calls >= 2 and mode != "r+b":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, mode, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_or_refuse)
        with pytest.raises(OutputError, match="the disk is full; free some space"):
            make_trainer(network(), [stage], *steps, checkpoint_every_s=0).run()
    resumed = network()
    trainer = make_trainer(resumed, [Entropy()], *steps, resume=True)
    trainer.run()
    assert [line["step"] for line in history(trainer)] == [1, 2, 3, 4]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_lines_after_the_last_checkpoint_are_written_anew(
    make_trainer: MakeTrainer, network: MakeNetwork, after_one_step: dict[str, Any]
) -> None:
    with pytest.raises(RunInterrupted):
        make_trainer(network(), [Entropy()], **after_one_step).run()
    trainer = make_trainer(network(), [Entropy()], resume=True)
    with (trainer.context.workdir / HISTORY).open("a") as file:
        file.write('{"stage": "entropy", "step": 2, "los')  # killed in the middle of a line
    trainer.run()
    assert [line["step"] for line in history(trainer)] == [1, 2, 3, 4]
