"""A run that time leaves few steps publishes its start, the mixed statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from roadshift.adapt import adapt_bundle
from roadshift.adapt.methods import Stage
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.training.time_allocation import LEAST_STEPS
from roadshift.adapt.training.trainer import Trainer
from roadshift.runtime.bundle import Bundle
from run_cases import Entropy, Killed, kill_at, run_options
from run_clock import Clock
from safetensors.torch import load_file
from torch import Tensor

MIXED = ("warm_start=mixed", "statistics_share=0.4", "weight_interpolation=1")
MakeTrainer = Callable[..., Trainer]
MakeNetwork = Callable[..., SegmentationNetwork]


def slow(clock: Clock, seconds: Callable[[int], float] = lambda _: 1.0) -> Entropy:
    """A stage whose n-th step takes so many seconds."""

    def factor(call: int) -> float:
        clock.now += seconds(call)
        return 1.0

    return Entropy(factor)


def start_of(make_trainer: MakeTrainer, model: SegmentationNetwork) -> dict[str, Tensor]:
    """The weights of a run of no stage that begins with `MIXED`."""
    make_trainer(model, [], *MIXED).run()
    return model.state_dict()


def same(model: SegmentationNetwork, start: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, start[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("time", "room"),
    [
        ({"time_budget_s": 20.0}, 19),
        ({"patience_s": 20.0}, 20),
        ({"patience_s": 1.0}, 7),  # no time at all: one after those that are timed
        ({"time_budget_s": 3.0}, 2),  # over before any rate is known
    ],
)
def test_too_few_steps_leave_the_mixed_statistics_and_say_so(
    time: dict[str, float],
    room: int,
    clock: Clock,
    make_trainer: MakeTrainer,
    network: MakeNetwork,
) -> None:
    start, model, notes = start_of(make_trainer, network()), network(), list[str]()
    stages: list[Stage] = [slow(clock), slow(clock)]
    summary = make_trainer(
        model, stages, "training.steps=100", *MIXED, note=notes.append, **time
    ).run()
    assert same(model, start)
    assert summary.steps == 0
    assert summary.start_why.startswith(f"there was time for {room} of 100 steps, ")
    said = [note for note in notes if note.startswith(summary.start_why)]
    assert len(said) == 1
    assert "with 0.4 of the frames' batch-norm statistics" in said[0]
    assert said[0].endswith("give a longer time_budget_s")
    assert [stage.calls for stage in stages] == [min(room, 6), 0]  # known to be too few by then


def test_as_many_steps_as_are_enough_are_learned_from(
    clock: Clock, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    start, model = start_of(make_trainer, network()), network()
    stages = [slow(clock)]
    summary = make_trainer(
        model, stages, "training.steps=100", *MIXED, patience_s=float(LEAST_STEPS)
    ).run()
    assert (summary.steps, summary.start_why) == (LEAST_STEPS, "")
    assert not same(model, start)


def test_as_few_steps_as_a_user_asks_for_are_taken(
    clock: Clock, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    start, model = start_of(make_trainer, network()), network()
    asked = f"training.steps={LEAST_STEPS - 1}"
    summary = make_trainer(model, [slow(clock)], asked, *MIXED, time_budget_s=10.0).run()
    assert (summary.steps, summary.start_why) == (9, "")
    assert not same(model, start)


def test_a_run_that_begins_with_no_mixture_learns_from_what_there_is_time_for(
    clock: Clock, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    summary = make_trainer(
        network(), [slow(clock)], "training.steps=100", "warm_start=source", time_budget_s=10.0
    ).run()
    assert (summary.steps, summary.start_why) == (9, "")


def test_without_batch_norm_too_few_steps_leave_the_source_model(
    clock: Clock, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    model, notes = network(norm=False), list[str]()
    settings = ("training.steps=100", "warm_start=mixed", "weight_interpolation=1")
    summary = make_trainer(
        model, [slow(clock)], *settings, time_budget_s=20.0, note=notes.append
    ).run()
    assert summary.start_why
    assert any("the result is the source model; for more" in note for note in notes)
    assert same(model, network(norm=False).state_dict())


def test_steps_that_turn_slower_than_planned_may_be_too_few_at_the_end(
    clock: Clock, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    start, model = start_of(make_trainer, network()), network()
    stage = slow(clock, lambda call: 1.0 if call < 10 else 8.0)
    summary = make_trainer(model, [stage], "training.steps=100", *MIXED, time_budget_s=60.0).run()
    assert 9 < stage.calls < LEAST_STEPS
    assert summary.start_why.startswith(f"there was time for {stage.calls} of 100 steps")
    assert same(model, start)
    assert summary.seconds <= 60.0


def test_a_run_killed_before_its_few_steps_end_resumes_to_its_start(
    clock: Clock, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    start, model = start_of(make_trainer, network()), network()
    time = {"patience_s": 20.0, "checkpoint_every_s": 0.0}
    settings = ("training.steps=100", *MIXED)
    with pytest.raises(Killed):
        make_trainer(network(), [slow(clock)], *settings, report=kill_at(4), **time).run()
    summary = make_trainer(model, [slow(clock)], *settings, resume=True, **time).run()
    assert summary.start_why.startswith("there was time for ")
    assert same(model, start)


@pytest.mark.usefixtures("slow_network")
def test_a_bundle_of_few_steps_is_that_of_bn_stats_judged_in_time(
    clock: Clock,
    source: Bundle,
    recording: Path,
    tmp_path: Path,
    settings: Callable[..., RunConfig],
) -> None:
    made = {}
    for method, budget in (("bn_stats", None), ("nightshift", 45.0)):
        config = settings("tone=none", "watch.every=0", *MIXED[:2], method=method)
        options = run_options(tmp_path / method, time_budget_s=budget)
        began = clock.now
        made[method] = adapt_bundle(source, [recording], config, options, gated=True)
    assert clock.now - began <= 45.0
    mixed, few = (load_file(bundle.path / "model.safetensors") for bundle in made.values())
    for name, tensor in mixed.items():  # but for the order in which frames were added up
        torch.testing.assert_close(few[name], tensor)
    outcome: Any = made["nightshift"].manifest.provenance.configuration["outcome"]
    assert outcome["steps"] == 0
    assert "of 200 steps" in outcome["start_why"]
    assert made["nightshift"].manifest.verdict is not None
