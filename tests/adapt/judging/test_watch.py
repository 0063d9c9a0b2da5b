"""Looks while a run adapts: they move nothing, stop what collapses, and keep the best step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from roadshift.adapt import RunOptions, adapt_bundle
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.judging.gradient_norms import DEAD_STEPS, LEAST, GradientNorms
from roadshift.adapt.judging.validation import (
    Look,
    PredictionSummary,
    clearly_better,
    information,
    judged,
)
from roadshift.adapt.losses.backends.reference import pixel_entropy
from roadshift.adapt.methods import Stage
from roadshift.adapt.networks import SegmentationNetwork, adapt_foreign
from roadshift.adapt.networks.modes import evaluating
from roadshift.adapt.run.config import RunConfig, WatchConfig
from roadshift.adapt.run.workspace import HISTORY
from roadshift.adapt.training.trainer import Trainer
from roadshift.adapt.workflows import whole_run
from roadshift.runtime.arguments import ProgressUpdate
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.errors import FrameError
from roadshift.runtime.verdict import Verdict
from run_cases import Killed, assert_same, kill_at
from safetensors.torch import load_file
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("one_thread")
MakeTrainer = Callable[..., Trainer]
MakeNetwork = Callable[..., SegmentationNetwork]
CLASSES = ("road", "building", "sky", "car")
HELD = 5
VICTIM = 3  # the class that a bad stage drives away


class Drift(Stage):
    """Sharpens what the model says; from step ``bad_from`` drives one class away instead."""

    def __init__(
        self, name: str = "drift", bad_from: int | None = None, push: float = 30.0
    ) -> None:
        self.name, self.bad_from, self.push, self.calls = name, bad_from, push, 0

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        self.model, self.normalise = model.train(), context.normalise
        self.batches = torch.zeros(())

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.model(self.normalise(batch.augmented)).logits
        if self.bad_from is not None and self.batches >= self.bad_from:
            return {"away": self.push * logits[:, VICTIM].mean()}
        p = logits.softmax(dim=1).mean(dim=(0, 2, 3))
        return {"sharp": pixel_entropy(logits.log_softmax(dim=1)).mean() + 3 * (p * p.log()).sum()}

    def after_step(self) -> None:
        self.batches += 1

    def state(self) -> dict[str, Tensor]:
        return {"batches": self.batches}

    def load_state(self, tensors: Any) -> None:
        self.batches = tensors["batches"].clone()


def held_frames(count: int = HELD) -> FrameSet:
    rng = np.random.default_rng(11)
    images = rng.integers(0, 256, (count, 4, 6, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return FrameSet(
        [f"held_{i}" for i in range(count)], 48, 32, lambda i: images[i].astype(np.uint8)
    )


SETTINGS = (
    "training.lr=0.03",
    "training.poly_power=0",
    "watch.every=2",
    "weight_interpolation=1.0",
)


@pytest.fixture
def watched(make_trainer: MakeTrainer) -> MakeTrainer:
    """``watched(model, stages, *assignments, held=..., **options)``: with frames set aside."""

    def make(
        model: SegmentationNetwork,
        stages: Sequence[Stage],
        *assignments: str,
        held: FrameSet | None = None,
        folder: Path | None = None,
        **options: Any,
    ) -> Trainer:
        plain = make_trainer(model, stages, *SETTINGS, *assignments, **options)
        context = replace(
            plain.context,
            held=held or held_frames(),
            classes=CLASSES,
            workdir=folder or plain.context.workdir,
        )
        context.workdir.mkdir(exist_ok=True)
        return Trainer(model, list(stages), context, plain.options)

    return make


class Recorder:
    """Copies of the model's weights after each step."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.weights = model, {0: copied(model)}

    def __call__(self, progress: ProgressUpdate) -> None:
        self.weights[progress.done] = copied(self.model)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def record_of(trainer: Trainer) -> dict[str, Any]:
    """The summary's record of the watch, but for the time it took."""
    record = trainer.watch.record()
    assert record is not None
    assert record.pop("seconds") > 0
    return record


# --- nothing moves -------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [True, False], ids=["batch-norm", "no-norm"])
@pytest.mark.parametrize(
    "given",
    [("weight_interpolation=0.5",), ("final_bn=false", "training.optimizer=adamw")],
    ids=str,
)
def test_looks_change_no_weight_no_buffer_and_no_random_draw(
    given: tuple[str, ...],
    norm: bool,
    make_trainer: MakeTrainer,
    watched: MakeTrainer,
    network: MakeNetwork,
    tmp_path: Path,
) -> None:
    settings = ("training.steps=5", "training.lr=1e-4", *given)
    plain = make_trainer(network(norm=norm), [Drift()], *SETTINGS, *settings)
    assert plain.run().watch is None
    looking = watched(
        network(norm=norm), [Drift()], "watch.every=1", *settings, folder=tmp_path / "looking"
    )
    looking.watch._preferred = lambda last, _: last  # type: ignore[method-assign]
    record = looking.run().watch
    assert record is not None
    assert [look["step"] for look in record["looks"]] == [0, 1, 2, 3, 4, 5]
    for stage in (0, 1):
        name = f"stage-{stage}.safetensors"
        ours, theirs = (load_file(t.context.workdir / name) for t in (looking, plain))
        assert_same(ours, theirs)
    assert_same(looking.model.state_dict(), plain.model.state_dict())
    histories = [(t.context.workdir / HISTORY).read_bytes() for t in (looking, plain)]
    assert histories[0] == histories[1]


def test_a_look_draws_nothing_and_leaves_the_modes(
    watched: MakeTrainer, network: MakeNetwork
) -> None:
    trainer = watched(network(), [Drift()], "training.steps=2", "weight_interpolation=0.5")
    trainer.run()
    trainer.model.train()
    trainer.model.get_submodule("first_norm").eval()  # as a method freezes a layer
    modes = [module.training for module in trainer.model.modules()]
    weights, generator = copied(trainer.model), torch.get_rng_state()
    trainer.watch._see()
    assert_same(trainer.model.state_dict(), weights)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in trainer.model.modules()] == modes
    assert all(layer.track_running_stats for layer in trainer.model.modules() if is_norm(layer))


def is_norm(layer: nn.Module) -> bool:
    return isinstance(layer, nn.BatchNorm2d)


def test_a_foreign_networks_own_mode_comes_back() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(images)
            return logits + 100 if self.training else logits

    network = adapt_foreign(Noisy(), 4).train()
    images = torch.zeros(1, 3, 8, 8)
    with torch.no_grad(), evaluating(network):
        assert float(network(images).logits.max()) < 50
    assert float(network(images).logits.detach().max()) > 50


@pytest.mark.parametrize("assignment", ["watch.every=0", "training.steps=0"])
def test_a_watch_can_be_turned_off_and_a_run_of_no_steps_has_none(
    assignment: str, watched: MakeTrainer, network: MakeNetwork
) -> None:
    trainer = watched(network(), [Drift()], "training.steps=3", assignment)
    trainer.watch._see = pytest.fail  # type: ignore[assignment, method-assign]
    assert trainer.run().watch is None
    assert not list(trainer.context.workdir.glob("look-*"))


@pytest.mark.parametrize(
    ("steps", "every", "expected"), [(300, None, 38), (30, None, 10), (300, 7, 7), (300, 0, 0)]
)
def test_how_often_it_looks(steps: int, every: int | None, expected: int) -> None:
    assert WatchConfig(every=every).steps_between(steps) == expected


# --- what it looks at ----------------------------------------------------------------------------


def test_it_looks_at_the_model_that_would_be_published(
    watched: MakeTrainer, network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interpolated, and normalised as if batch norm were re-estimated on the frames alone."""
    model = network()
    trainer = watched(
        model, [Drift()], "training.steps=2", "weight_interpolation=0.25", held=held_frames(4)
    )
    said: list[Tensor] = []
    of = PredictionSummary.of
    monkeypatch.setattr(
        PredictionSummary, "of", lambda logits: said.append(logits.clone()) or of(logits)
    )
    recorder = Recorder(model)
    trainer.events = replace(trainer.events, report=recorder)
    trainer.run()
    start = load_file(trainer.context.workdir / "stage-0.safetensors")
    for step, logits in zip((0, 2), said[:2], strict=True):
        published = network()
        weights = recorder.weights[2] if step else start
        published.load_state_dict(
            {name: start[name].lerp(weights[name], 0.25) if "num" not in name else weights[name]
             for name in start}
        )  # fmt: skip
        published.eval()
        for layer in filter(is_norm, published.modules()):
            layer.train()
        frames = trainer.context.held
        assert frames is not None
        images = torch.from_numpy(np.stack([frames.image(i) for i in range(4)]))
        expected = published(trainer.context.normalise(images)).logits
        torch.testing.assert_close(logits, expected)


def test_without_final_batch_norm_it_uses_the_running_statistics(
    watched: MakeTrainer, network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    trainer = watched(model, [Drift()], "training.steps=2", "final_bn=false", held=held_frames(4))
    said: list[Tensor] = []
    of = PredictionSummary.of
    monkeypatch.setattr(
        PredictionSummary, "of", lambda logits: said.append(logits.clone()) or of(logits)
    )
    trainer.run()
    frames = trainer.context.held
    assert frames is not None
    images = torch.from_numpy(np.stack([frames.image(i) for i in range(4)]))
    torch.testing.assert_close(said[-1], model.eval()(trainer.context.normalise(images)).logits)


def test_a_frame_that_cannot_be_read_is_left_out(
    watched: MakeTrainer, network: MakeNetwork
) -> None:
    good, notes = held_frames(), []

    def image(i: int) -> Any:
        if i == 2:
            raise FrameError("held_2: cannot be decoded.")
        return good.image(i)

    for readable, count in ((good.names, HELD - 1), (good.names[1:3], None)):
        held = FrameSet(readable, 48, 32, image if count else lambda i: image(i + 1))
        trainer = watched(network(), [Drift()], "training.steps=2", held=held, note=notes.append)
        record = trainer.run().watch
        assert (record and record["frames"]) == count
        assert "left out of the watch: held_2: cannot be decoded." in notes


# --- what is an alarm ----------------------------------------------------------------------------


def seen_of(labels: Tensor, sharpness: float = 12.0) -> PredictionSummary:
    """The summary of a model that gives these labels (F, h, w), each with the same confidence."""
    logits = nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).double() * sharpness
    return PredictionSummary.of(logits)


def quarters(frames: int = 4) -> Tensor:
    """Each class has a quarter of every frame, 16x16."""
    return torch.arange(4).repeat_interleave(64).view(1, 16, 16).repeat(frames, 1, 1)


def test_a_look_at_the_reference_itself_is_no_alarm_and_its_scores_are_known() -> None:
    reference = seen_of(quarters())
    look = judged(0, reference, reference, CLASSES)
    assert look.alarms == []
    assert look.scores["information"] == pytest.approx(np.log(4), abs=1e-3)
    assert look.scores["entropy"] == pytest.approx(0, abs=1e-3)
    assert look.scores["agreement"] == 1
    assert look.lost == dict.fromkeys(CLASSES, 0.0)


def test_a_class_that_vanishes_is_an_alarm_and_one_that_was_hardly_there_is_none() -> None:
    before, after = quarters(), quarters()
    after[after == VICTIM] = 0
    look = judged(7, seen_of(after), seen_of(before), CLASSES)
    assert "car lost 100% of its area" in look.alarms
    rare = torch.zeros(4, 16, 16, dtype=torch.int64)
    rare[:, 8:] = 1
    without = rare.clone()
    rare[0, 0, :5] = VICTIM  # 5 of 1024 pixels, below half a per cent
    assert judged(7, seen_of(without), seen_of(rare), CLASSES).alarms == []
    rare[0, 0, 5] = VICTIM
    assert judged(7, seen_of(without), seen_of(rare), CLASSES).alarms == [
        "car lost 100% of its area"
    ]


def test_a_uniform_softmax_has_no_information() -> None:
    look = judged(3, seen_of(quarters(), sharpness=1e-6), seen_of(quarters()), CLASSES)
    assert look.alarms == ["information is 0.00 nats, below 1.11"]


def test_permuted_labels_disagree_with_what_the_start_was_sure_of() -> None:
    look = judged(3, seen_of((quarters() + 1) % 4), seen_of(quarters()), CLASSES)
    assert look.alarms == ["0% agreement on pixels that the start was sure of"]
    unsure = seen_of(quarters(), sharpness=0.5)  # no pixel to agree on
    assert "agreement" not in judged(3, seen_of((quarters() + 1) % 4), unsure, CLASSES).scores


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_probabilities_that_are_no_numbers_are_an_alarm(bad: float) -> None:
    logits = torch.zeros(4, 4, 16, 16)
    logits[2, 1, 3, 5] = bad
    look = judged(3, PredictionSummary.of(logits), seen_of(quarters()), CLASSES)
    assert look.alarms == ["the model's probabilities are not numbers"]
    assert look.information == -float("inf")
    assert look.record()["scores"] == {}


def test_information_is_weighted_over_frames() -> None:
    seen = seen_of(torch.stack([torch.zeros(8, 8), torch.ones(8, 8)]).long())
    weights = torch.tensor([[1.0, 1], [2, 0], [0, 0], [3, 1]], dtype=torch.float64)
    odd = 0.25 * np.log(4) + 0.75 * np.log(4 / 3)
    expected = torch.tensor([np.log(2), 0, 0, odd], dtype=torch.float64)
    found, diversity = information(seen.p, seen.entropy, weights)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(diversity, expected, atol=1e-3, rtol=0)
    assert float(information(seen.p, seen.entropy)[0]) == pytest.approx(float(found[0]))
    unsure = torch.ones(2, dtype=torch.float64)  # says nothing of any pixel
    nothing, same = information(seen.p, unsure, weights)
    torch.testing.assert_close(same, diversity)
    torch.testing.assert_close(nothing, diversity - np.log(4) * torch.tensor([1, 1, 0, 1]).double())


def frames_of(labels: Tensor, sharpness: float) -> dict[str, Tensor]:
    seen = seen_of(labels, sharpness)
    return {"p": seen.p, "entropy": seen.entropy}


def test_what_is_clearly_better() -> None:
    few = quarters(8)
    few[few == VICTIM] = 0
    good, softer = frames_of(quarters(8), 6), frames_of(quarters(8), 4)
    collapsed = frames_of(few, 12)
    assert clearly_better(good, collapsed)
    assert not clearly_better(collapsed, good)
    assert not clearly_better(good, good)
    assert float(information(**good)[0]) > float(information(**softer)[0]) + 0.1
    assert not clearly_better(good, softer)  # as diverse, only less sure


def test_chance_is_not_clearly_better() -> None:
    """A difference that one of eight frames makes, and the others do not."""
    one, other = quarters(8), quarters(8)
    one[1:], other[1:] = one[1:].clamp(max=1), other[1:].clamp(max=1)
    other[0] = other[0].clamp(max=1)
    ours, theirs = frames_of(one, 12), frames_of(other, 12)
    assert float(information(**ours)[0]) > float(information(**theirs)[0])
    assert not clearly_better(ours, theirs)


# --- the gradient's norm -------------------------------------------------------------------------


def sentences(norms: Sequence[float]) -> dict[int, str]:
    watch = GradientNorms()
    said = {i: watch.add(norm) for i, norm in enumerate(norms)}
    return {i: sentence for i, sentence in said.items() if sentence}


def usual(count: int) -> list[float]:
    return [1.0 + 0.5 * (i % 3) for i in range(count)]


def test_a_gradient_that_explodes_and_dies_is_an_alarm_for_each() -> None:
    norms = [*usual(LEAST), 31.0, 80.0, *[1e-4] * 60]
    assert sentences(norms) == {
        LEAST: "the gradient exploded: its norm is 21 times the usual",
        LEAST + 1 + DEAD_STEPS: "the gradient died after it exploded: below 0.001 of the usual",
    }


@pytest.mark.parametrize(
    "norms",
    [
        [*usual(LEAST - 1), 1e6],  # nothing is usual yet
        [*usual(30), 29.0, *usual(30)],  # large, but seen
        [*usual(30), *[0.0] * 30],  # batches without a pseudo label
        [*usual(30), float("inf"), float("nan"), *[0.0] * 30],  # steps thrown away
        [0.0] * 30 + [5.0],
        [1.1**i for i in range(80)],  # grows, without a jump
    ],
    ids=["early", "large", "empty", "not-finite", "nothing-usual", "growing"],
)
def test_other_gradients_are_none(norms: list[float]) -> None:
    assert sentences(norms) == {}


def test_a_dead_gradient_that_comes_back_lives() -> None:
    watch = GradientNorms()
    for norm in [*usual(20), 100.0, *[0.0] * DEAD_STEPS]:
        watch.add(norm)
    assert watch.dead
    watch.add(1.0)
    assert not watch.dead


def test_its_state_comes_back() -> None:
    norms = [*usual(20), 100.0, *[0.0] * 20]
    for stop in range(len(norms)):
        one = GradientNorms()
        before = [one.add(norm) for norm in norms[:stop]]
        two = GradientNorms()
        two.load_state(one.state())
        assert [*before, *map(two.add, norms[stop:])] == list(map(GradientNorms().add, [])) + [
            sentences(norms).get(i) for i in range(len(norms))
        ]


class Exploding(Drift):
    """Its loss is a thousand times as steep at one step, and flat afterwards."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        factor = 1.0 if self.calls < 12 else 1e4 if self.calls == 12 else 1e-9
        return {name: term * factor for name, term in super().losses(batch).items()}


def test_a_run_whose_gradient_explodes_and_dies_says_so_and_stops(
    watched: MakeTrainer, network: MakeNetwork
) -> None:
    notes: list[str] = []
    trainer = watched(
        network(),
        [Exploding()],
        "training.steps=40",
        "training.max_grad_norm=0.01",
        note=notes.append,
    )
    summary = trainer.run()
    record = record_of(trainer)
    steps = {alarm["sentence"][:21]: alarm["step"] for alarm in reversed(record["alarms"])}
    assert steps["the gradient exploded"] == 12
    assert steps["the gradient died aft"] == 12 + DEAD_STEPS
    assert steps["the gradient is dead "] == 18
    assert (record["stopped_early"], summary.steps) == (True, 20)
    assert record["kept_step"] <= 16
    assert any(note.startswith("step 12: the gradient exploded") for note in notes)
    (cost,) = [note for note in notes if note.startswith("looked ")]
    assert cost.startswith(f"looked {len(record['looks'])} times at {HELD} frames set aside, in ")


# --- stopping and keeping ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [("final_bn=false",), ("weight_interpolation=0.5", "final_bn=false"), ()], ids=str
)
def test_a_run_that_drives_a_class_away_is_stopped_and_keeps_the_good_weights(
    given: tuple[str, ...], watched: MakeTrainer, network: MakeNetwork
) -> None:
    model, notes = network(dropout=0.0), []
    trainer = watched(
        model, [Drift(bad_from=8), Drift()], "training.steps=80", *given, note=notes.append
    )
    trainer.events = replace(trainer.events, report=(recorder := Recorder(model)))
    summary = trainer.run()
    record = record_of(trainer)
    looks = {look["step"]: look for look in record["looks"]}
    last = max(looks)
    assert summary.steps == last < 40  # the second stage was not begun
    assert record["stopped_early"]
    assert looks[last]["lost"]["car"] > 0.8 < looks[last - 2]["lost"]["car"]
    assert not looks[8]["alarms"]
    assert 2 <= record["kept_step"] < last - 2
    start = load_file(trainer.context.workdir / "stage-0.safetensors")
    kept = recorder.weights[record["kept_step"]]
    share = trainer.context.config.weight_interpolation
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, torch.lerp(start[name], kept[name], share)), name
    if given == ("final_bn=false",):
        assert_same(model.state_dict(), kept)
    what = [note for note in notes if note.startswith(f"stopped early at step {last}: ")]
    assert len(what) == 1
    assert "car lost" in what[0]
    assert what[0].endswith(f"; kept the weights of step {record['kept_step']}")


def alarmed_at(trainer: Trainer, *steps: int) -> None:
    """Make the looks at these steps alarms."""
    add = trainer.watch._add

    def adding(step: int, seen: PredictionSummary) -> Look:
        look = add(step, seen)
        if step in steps:
            trainer.watch._looks[-1] = look = replace(look, alarms=["made up"])
        return look

    trainer.watch._add = adding  # type: ignore[method-assign]


def test_a_single_alarm_does_not_stop_a_run(watched: MakeTrainer, network: MakeNetwork) -> None:
    trainer = watched(network(), [Drift()], "training.steps=8")
    alarmed_at(trainer, 2, 6)
    assert trainer.run().steps == 8
    assert not record_of(trainer)["stopped_early"]


@pytest.mark.parametrize("steps", [8, 7])
def test_a_run_that_took_its_steps_was_not_stopped_early(
    steps: int, watched: MakeTrainer, network: MakeNetwork
) -> None:
    notes: list[str] = []
    trainer = watched(network(), [Drift()], f"training.steps={steps}", note=notes.append)
    alarmed_at(trainer, 6, steps)
    assert trainer.run().steps == steps
    record = record_of(trainer)
    assert not record["stopped_early"]
    assert record["kept_step"] <= 4
    assert f"at the last step {steps}: made up; kept the weights of step 4" in notes


def test_a_gradient_that_died_in_the_last_steps_is_an_alarm_of_the_last_look(
    watched: MakeTrainer, network: MakeNetwork
) -> None:
    clip = "training.max_grad_norm=0.01"
    trainer = watched(network(), [Exploding()], "training.steps=19", clip)
    trainer.run()
    last = record_of(trainer)["looks"][-1]
    assert (last["step"], last["alarms"]) == (19, ["the gradient is dead since it exploded"])


def test_where_no_look_is_without_alarm_the_warm_start_is_the_result(
    watched: MakeTrainer, network: MakeNetwork
) -> None:
    model, notes = network(), []
    trainer = watched(
        model,
        [Drift(bad_from=0)],
        "training.steps=9",
        "training.lr=1.0",
        "final_bn=false",
        note=notes.append,
    )
    assert trainer.run().steps == 4
    assert record_of(trainer)["kept_step"] == 0
    assert_same(model.state_dict(), load_file(trainer.context.workdir / "stage-0.safetensors"))
    assert notes[-2].startswith("stopped early at step 4: ")
    assert notes[-2].endswith("; kept the warm start's weights")


def test_an_alarm_at_the_last_step_keeps_an_earlier_one(
    watched: MakeTrainer, network: MakeNetwork
) -> None:
    notes: list[str] = []
    trainer = watched(
        network(dropout=0.0),
        [Drift(bad_from=4, push=3e4)],
        "training.steps=5",
        "final_bn=false",
        note=notes.append,
    )
    trainer.run()
    record = record_of(trainer)
    assert not record["stopped_early"]
    assert record["looks"][-1]["alarms"]
    assert record["kept_step"] in (2, 4)
    assert notes[-2].startswith("at the last step 5: ")


def test_the_manifest_has_what_was_seen_and_what_it_cost(
    source: Bundle,
    recording: Path,
    tmp_path: Path,
    settings: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdict = Verdict("ask", "Because.", (), 0)
    monkeypatch.setattr(whole_run, "judge_run", lambda *_: verdict)
    config = settings("training.steps=4", "watch.every=2")
    bundle = adapt_bundle(
        source, [recording], config, RunOptions(tmp_path / "out", device="cpu"), gated=True
    )
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    record = manifest["provenance"]["configuration"]["outcome"]["watch"]
    assert [look["step"] for look in record["looks"]] == [0, 2, 4]
    assert set(record["looks"][1]["lost"]) <= {"road", "building", "sky", "car"}
    assert (record["every"], record["stopped_early"]) == (2, False)
    (measured,) = [one for one in manifest["measured"] if one["name"] == "watch_seconds"]
    assert measured["value"] == record["seconds"] > 0
    assert measured["how"] == f"part of the run: 3 looks at {record['frames']} frames set aside"


# --- resumption ----------------------------------------------------------------------------------

RESUMED = ("training.steps=24", "weight_interpolation=0.5")


def stages() -> list[Stage]:
    return [Drift("first"), Drift("second", bad_from=2)]


@pytest.fixture
def whole(
    watched: MakeTrainer, network: MakeNetwork, tmp_path: Path
) -> tuple[dict[str, Tensor], dict[str, Any], int]:
    """Weights, record and steps of a run that nothing interrupted."""
    trainer = watched(network(), stages(), *RESUMED, folder=tmp_path / "whole")
    steps = trainer.run().steps
    record = record_of(trainer)
    assert record["stopped_early"]
    assert 12 < steps < 24
    assert 0 < record["kept_step"] < steps
    return copied(trainer.model), record, steps


@pytest.mark.parametrize(
    ("checkpoint_every_s", "every"), [(0, 3), (1e9, 7)], ids=["always", "of-stages"]
)
def test_a_run_killed_at_any_step_keeps_the_same_weights_bit_for_bit(
    checkpoint_every_s: float,
    every: int,
    whole: tuple[dict[str, Tensor], dict[str, Any], int],
    watched: MakeTrainer,
    network: MakeNetwork,
    tmp_path: Path,
) -> None:
    weights, record, steps = whole
    for at in range(1, steps + 1, every):
        where = {"folder": tmp_path / f"{at}", "checkpoint_every_s": checkpoint_every_s}
        with pytest.raises(Killed):
            watched(network(), stages(), *RESUMED, report=kill_at(at), **where).run()
        trainer = watched(network(seed=5), stages(), *RESUMED, resume=True, **where)
        assert trainer.run().steps == steps
        assert_same(trainer.model.state_dict(), weights)
        assert record_of(trainer) == record


def test_a_run_killed_before_any_file_is_in_place_keeps_the_same_weights(
    whole: tuple[dict[str, Tensor], dict[str, Any], int],
    watched: MakeTrainer,
    network: MakeNetwork,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At every fourth of its files, each kind among them."""
    weights, record, _ = whole
    put, places, killed = os.replace, [], set()
    left = 0

    def replaced(source: Any, target: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            killed.add(Path(target).name[:5])
            raise Killed
        places.append(Path(target).name[:5])
        put(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    number, done = -3, False
    while not done:
        number += 4
        where = {"folder": tmp_path / f"{number}", "checkpoint_every_s": 0, "resume": True}
        left, places[:] = number, []
        try:
            watched(network(), stages(), *RESUMED, **where).run()
            done = True
        except Killed:
            left = 0
            trainer = watched(network(), stages(), *RESUMED, **where)
            trainer.run()
            assert_same(trainer.model.state_dict(), weights)
            assert record_of(trainer) == record
    assert killed == set(places)
    assert places.count("look-") >= 3
    assert number > len(places) >= 12


def test_the_snapshot_of_a_checkpoint_is_there_until_the_next_one(
    watched: MakeTrainer, network: MakeNetwork
) -> None:
    """Or a run resumed from it, with a time budget that ends it, would miss its best step."""
    trainer = watched(network(), [Drift()], "training.steps=20", checkpoint_every_s=1e9)
    files: dict[int, list[int]] = {}

    def report(progress: ProgressUpdate) -> None:
        if progress.done == 7:
            trainer.files._saved = -1e9
        found = trainer.context.workdir.glob("look-*.safetensors")
        files[progress.done] = sorted(int(path.stem[5:]) for path in found)

    trainer.events = replace(trainer.events, report=report)
    trainer.run()
    assert files[7] == [2, 4, 6]  # each better than the one before
    assert files[8] == [6]
    assert files[11] == [6, 8, 10]
    assert len(list(trainer.context.workdir.glob("look-*.safetensors"))) == 1
