"""Trials before a run's first step: the precision that pays, and the batch that fits. On a CPU."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from roadshift.adapt.data.dataset import Batch
from roadshift.adapt.methods.iapc import IapcStage
from roadshift.adapt.methods.iapc_config import IapcConfig
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.run.budget import PeakMemory
from roadshift.adapt.run.checkpoint import load_checkpoint, save_checkpoint
from roadshift.adapt.run.precision import Precision, PrecisionName
from roadshift.adapt.run.workspace import CHECKPOINT
from roadshift.adapt.training import memory_fit as memory_fit_module
from roadshift.adapt.training import precision_benchmark as module
from roadshift.adapt.training import trainer as trainer_module
from roadshift.adapt.training.forward_backward import Passes
from roadshift.adapt.training.optimisation import build_optimizer
from roadshift.adapt.training.precision_benchmark import (
    NO_ROOM,
    PrecisionTrial,
    _cosine,
    choose_precision,
    describe_choice,
    measure_precisions,
)
from roadshift.adapt.training.trainer import Trainer
from roadshift.runtime.errors import TrainingError
from run_cases import Entropy, Killed, assert_same, kill_at
from torch import Tensor

MakeTrainer = Callable[..., Trainer]
MakeNetwork = Callable[..., SegmentationNetwork]
CPU = torch.device("cpu")
MIB = 2**20


def in_bf16() -> bool:
    return torch.is_autocast_enabled("cpu")


# --- the policy ----------------------------------------------------------------------------------


def measured(**found: tuple[float | None, float | None]) -> dict[PrecisionName, PrecisionTrial]:
    return {name: PrecisionTrial(*values) for name, values in found.items()}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("found", "chosen", "said"),
    [
        (
            measured(fp32=(1.8, 1.0), bf16=(1.0, 0.999)),
            "bf16",
            "precision: bf16, 1.8 times as fast as float32 here",
        ),
        (
            measured(fp32=(1.09, 1.0), bf16=(1.0, 0.999)),
            "fp32",
            "precision: float32; bf16 is 1.09 times as fast here",
        ),
        (measured(fp32=(1.1, 1.0), bf16=(1.0, 0.98)), "bf16", "1.1 times"),
        (
            measured(fp32=(3.0, 1.0), bf16=(1.0, 0.979)),
            "fp32",
            "bf16's gradient is another (cosine 0.979)",
        ),
        (
            measured(fp32=(3.0, 1.0), bf16=(1.0, None)),
            "fp32",
            "bf16's gradient is not finite, or zero",
        ),
        # fp16 does not win over bf16 by a hair, but it does where bf16 is too coarse
        (measured(fp32=(2.0, 1.0), bf16=(1.0, 0.99), fp16=(0.95, 0.999)), "bf16", "2 times"),
        (measured(fp32=(2.0, 1.0), bf16=(1.0, 0.99), fp16=(0.90, 0.999)), "fp16", "2.2 times"),
        (measured(fp32=(2.0, 1.0), bf16=(1.0, 0.95), fp16=(1.0, 0.999)), "fp16", "2 times"),
        (
            measured(fp32=(2.0, 1.0), bf16=(1.0, 0.95), fp16=(1.9, 0.999)),
            "fp32",
            "cosine 0.950), fp16 is 1.05 times",
        ),
        (
            measured(fp32=(None, None), bf16=(None, None), fp16=(None, None)),
            "bf16",
            "precision: bf16; float32 does not fit in the memory",
        ),
        (measured(fp32=(1.0, 1.0)), "fp32", "precision: float32"),
    ],
)
def test_the_faster_precision_is_taken_where_its_gradient_agrees(
    found: dict[PrecisionName, PrecisionTrial], chosen: PrecisionName, said: str
) -> None:
    assert choose_precision(found) == chosen
    assert said in describe_choice(found, chosen)


# --- measuring -----------------------------------------------------------------------------------


def passes_of(trainer: Trainer) -> tuple[Passes, Batch]:
    """Those of the trainer's first stage, and its first batch."""
    (stage,) = trainer.stages
    stage.begin(trainer.model, trainer.context)
    optimizer = build_optimizer(stage, trainer.model, trainer.training)
    return Passes(trainer.model, stage, optimizer, 0), trainer.sampler.batch(0)


def test_measuring_leaves_no_trace(make_trainer: MakeTrainer, network: MakeNetwork) -> None:
    recipe = {"class_balance": "rare", "prototypes": "momentum", "memory_mode": "train"}
    stage = IapcStage(IapcConfig(**recipe))
    model = network(dropout=0.3)
    passes, batch = passes_of(make_trainer(model, [stage]))

    def everything() -> dict[str, Tensor]:
        tensors = {**model.state_dict(), "generator": torch.get_rng_state()}
        tensors.update({f"stage.{name}": tensor for name, tensor in stage.state().items()})
        return {name: tensor.clone() for name, tensor in tensors.items()}

    before = everything()
    found = measure_precisions(passes, batch, ("bf16",), CPU)
    assert_same(everything(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not passes.optimizer.state
    assert model.get_submodule("dropout").p == 0.3
    assert found["fp32"].gradient_cosine == pytest.approx(1.0)
    assert all(values.seconds for values in found.values())


def test_the_cosine_is_that_of_all_gradients_as_one_vector(
    make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    model = network(dropout=0.0)
    passes, batch = passes_of(make_trainer(model, [Entropy()]))
    found = measure_precisions(passes, batch, ("bf16",), CPU)["bf16"].gradient_cosine
    vectors = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = passes.stage.losses(batch)["entropy"]
        loss.backward()  # type: ignore[no-untyped-call]
        vectors.append(torch.cat([p.grad.flatten() for p in model.parameters()]).double())
    expected = float(torch.nn.functional.cosine_similarity(*vectors, dim=0))
    assert 0.9 < expected < 1 - 1e-7
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("fp32_seconds", [3.0, 0.5])
def test_the_time_is_that_of_forward_and_backward(
    fp32_seconds: float,
    make_trainer: MakeTrainer,
    network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def slow(call: int) -> float:
        nonlocal now
        warm = 10.0 if call <= 2 else 0.0  # a first pass of each does not count
        now += warm + (1.0 if in_bf16() else fp32_seconds)
        return 1.0

    monkeypatch.setattr(module, "_clock", lambda _: now)
    passes, batch = passes_of(make_trainer(network(), [Entropy(slow)]))
    found = measure_precisions(passes, batch, ("bf16",), CPU)
    assert (found["fp32"].seconds, found["bf16"].seconds) == (fp32_seconds, 1.0)
    assert choose_precision(found) == ("bf16" if fp32_seconds > 1 else "fp32")
    assert isinstance(passes.stage, Entropy)
    assert passes.stage.calls == 2 + 2 * 3  # three turns were enough


@pytest.mark.parametrize(
    ("bad", "cosine"),
    [(lambda _: -1.0, -1.0), (lambda call: float("nan") if call > 3 else 1.0, None)],
    ids=["always turned round", "not finite after a good first one"],
)
def test_wrong_gradients_are_seen_in_any_turn(
    bad: Callable[[int], float],
    cosine: float | None,
    make_trainer: MakeTrainer,
    network: MakeNetwork,
) -> None:
    stage = Entropy(lambda call: bad(call) if in_bf16() else 1.0)
    passes, batch = passes_of(make_trainer(network(), [stage]))
    found = measure_precisions(passes, batch, ("bf16",), CPU)
    assert found["bf16"].gradient_cosine == pytest.approx(cosine, abs=0.05)
    assert choose_precision(
        {**found, "bf16": PrecisionTrial(1e-9, found["bf16"].gradient_cosine)}
    ) == ("fp32")


def test_a_broken_kernel_of_one_small_parameter_is_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    large, small, tiny = (
        torch.randn(400, generator=generator) * size for size in (1.0, 0.03, 0.001)
    )
    noise = torch.randn(400, generator=generator)
    assert _cosine([large, small], [large, small]) == pytest.approx(1.0)
    whole = _cosine([large, small, tiny], [large, small, 0.001 * noise])
    assert whole == pytest.approx(1.0, abs=1e-5)  # too small to matter
    broken = _cosine([large, small], [large, 0.03 * noise])
    assert broken is not None
    assert abs(broken) < 0.2
    unlearnt = _cosine([large, small], [large, torch.zeros(400)])
    assert unlearnt == pytest.approx(0.0)


@pytest.mark.parametrize("factor", [0.0, float("inf")])
def test_without_a_gradient_in_float32_there_is_nothing_to_agree_with(
    factor: float, make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    stage = Entropy(lambda _: 1.0 if in_bf16() else factor)
    passes, batch = passes_of(make_trainer(network(), [stage]))
    found = measure_precisions(passes, batch, ("bf16",), CPU)
    assert found["bf16"].gradient_cosine is None


def test_fp16s_scale_is_searched_before_its_gradient_is_judged(
    make_trainer: MakeTrainer, network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_scale(name: PrecisionName, device: torch.device) -> Precision:
        precision = Precision("fp32", device)  # torch has the scaler on a CPU too
        if name == "fp16":
            precision._scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
            precision._found_scale = False
        return precision

    monkeypatch.setattr(module, "Precision", with_scale)
    stage = Entropy(lambda _: 1e3)  # overflows until the scale has been halved often
    passes, batch = passes_of(make_trainer(network(), [stage]))
    found = measure_precisions(passes, batch, ("fp16",), CPU)
    assert found["fp16"].gradient_cosine == pytest.approx(1.0)
    assert stage.calls > 1 + 2 + 2 * module.TURNS - 1


def test_no_room_for_float32_is_found(make_trainer: MakeTrainer, network: MakeNetwork) -> None:
    def greedy(_: int) -> float:
        if not in_bf16():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    model = network(dropout=0.3)
    passes, batch = passes_of(make_trainer(model, [Entropy(greedy)]))
    assert measure_precisions(passes, batch, ("bf16",), CPU) == {"fp32": NO_ROOM, "bf16": NO_ROOM}
    assert model.get_submodule("dropout").p == 0.3


# --- in a run ------------------------------------------------------------------------------------


AUTO = ("training.amp=auto", "training.steps=4", "training.lr=0.01")


@pytest.fixture
def has_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that multiplies bf16, and runs of four steps that are long enough to measure."""
    monkeypatch.setattr(trainer_module, "native_precisions", lambda _: ("bf16",))
    monkeypatch.setattr(trainer_module, "MEASURED_FROM", 4)


def clock_that_favours(name: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], float]:
    """For `Entropy`: one precision takes half of the other's time."""
    now = 0.0

    def tick(_: int) -> float:
        nonlocal now
        now += 1.0 if (name == "bf16") == in_bf16() else 2.0
        return 1.0

    monkeypatch.setattr(module, "_clock", lambda _: now)
    return tick


@pytest.mark.usefixtures("has_bf16")
@pytest.mark.parametrize(("name", "amp"), [("bf16", "bf16"), ("fp32", "off")])
def test_a_run_that_measured_is_the_run_that_was_told(
    name: str,
    amp: str,
    make_trainer: MakeTrainer,
    network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []
    tick = clock_that_favours(name, monkeypatch)
    auto = network()
    summary = make_trainer(auto, [Entropy(tick)], *AUTO, note=notes.append).run()
    assert summary.precision == name
    assert summary.precision_measured is not None
    assert {key: value["seconds"] for key, value in summary.precision_measured.items()} == {
        "fp32": 1.0 if name == "fp32" else 2.0,
        "bf16": 1.0 if name == "bf16" else 2.0,
    }
    assert [note.partition(",")[0].partition(";")[0] for note in notes if "precision" in note] == [
        f"precision: {'bf16' if name == 'bf16' else 'float32'}"
    ]
    told = network()
    summary = make_trainer(told, [Entropy()], *AUTO, f"training.amp={amp}").run()
    assert (summary.precision, summary.precision_measured) == (name, None)
    assert_same(auto.state_dict(), told.state_dict())


@pytest.mark.usefixtures("has_bf16")
@pytest.mark.parametrize("checkpoint_every_s", [60.0, 0.0])
@pytest.mark.parametrize("at", [1, 3])
def test_a_resumed_run_keeps_its_precision(
    at: int,
    checkpoint_every_s: float,
    make_trainer: MakeTrainer,
    network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = network()
    make_trainer(whole, [Entropy()], *AUTO, "training.amp=bf16").run()
    tick = clock_that_favours("bf16", monkeypatch)
    with pytest.raises(Killed):
        make_trainer(
            network(),
            [Entropy(tick)],
            *AUTO,
            report=kill_at(at),
            checkpoint_every_s=checkpoint_every_s,
        ).run()
    again = network(seed=5)
    stage = Entropy(clock_that_favours("fp32", monkeypatch))
    summary = make_trainer(again, [stage], *AUTO, resume=True).run()
    assert summary.precision == "bf16"
    assert summary.precision_measured is not None
    assert stage.calls == (4 if checkpoint_every_s else 4 - at + 1)  # no pass but the steps'
    assert_same(again.state_dict(), whole.state_dict())


@pytest.mark.usefixtures("has_bf16")
def test_a_run_that_chose_fp16_does_not_go_on_without_a_gpu(
    make_trainer: MakeTrainer, network: MakeNetwork
) -> None:
    trainer = make_trainer(network(), [Entropy()], *AUTO, report=kill_at(2), checkpoint_every_s=0)
    with pytest.raises(Killed):
        trainer.run()
    path: Path = trainer.context.workdir / CHECKPOINT
    tensors, state = load_checkpoint(path)
    object.__setattr__(state, "precision", "fp16")
    save_checkpoint(path, tensors, state)
    with pytest.raises(TrainingError, match=r"learns in fp16.*on a GPU.*overwrite=True"):
        make_trainer(network(), [Entropy()], *AUTO, resume=True).run()


@pytest.mark.usefixtures("has_bf16")
@pytest.mark.parametrize(
    ("assignment", "names"),
    [("training.steps=3", ("bf16",)), ("training.steps=4", ()), ("training.amp=off", ("bf16",))],
    ids=["too short", "no such hardware", "told not to"],
)
def test_nothing_is_timed_where_nothing_is_to_be_chosen(
    assignment: str,
    names: tuple[str, ...],
    make_trainer: MakeTrainer,
    network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trainer_module, "native_precisions", lambda _: names)
    stage, notes = Entropy(), list[str]()
    summary = make_trainer(network(), [stage], *AUTO, assignment, note=notes.append).run()
    assert (summary.precision, summary.precision_measured) == ("fp32", None)
    assert stage.calls == summary.steps
    assert not [note for note in notes if "precision" in note]


@pytest.fixture
def half_in_bf16(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A pass of n frames peaks at 100 n MiB in float32 and 50 n in bf16; gives what was tried."""
    tried: list[str] = []
    peaks: list[int] = []
    losses = Entropy.losses

    def counted(self: Entropy, batch: Batch) -> dict[str, Tensor]:
        peaks.append((50 if in_bf16() else 100) * len(batch.frames) * MIB)
        tried.append(f"{'bf16' if in_bf16() else 'fp32'} {len(batch.frames)}")
        return losses(self, batch)

    @contextmanager
    def fake(_: torch.device) -> Iterator[PeakMemory]:
        peak = PeakMemory()
        peaks.clear()
        try:
            yield peak
        finally:
            peak.bytes = max(peaks, default=0)

    monkeypatch.setattr(Entropy, "losses", counted)
    monkeypatch.setattr(memory_fit_module, "peak_memory", fake)
    return tried


@pytest.mark.usefixtures("has_bf16")
@pytest.mark.parametrize(
    ("budget", "tries", "micro_batch", "said"),
    [
        # float32's room, both measured in turns within it, then bf16's own room
        (
            250,
            "fp32 1, fp32 2, bf16 2, fp32 2, bf16 2, fp32 2, bf16 2, bf16 1, bf16 2, bf16 3",
            3,
            "2 times as fast",
        ),
        (80, "fp32 1, bf16 1", 1, "float32 does not fit"),
    ],
)
def test_a_memory_budget_bounds_what_is_measured_too(
    budget: int,
    tries: str,
    micro_batch: int,
    said: str,
    half_in_bf16: list[str],
    make_trainer: MakeTrainer,
    network: MakeNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []
    stage = Entropy(clock_that_favours("bf16", monkeypatch))
    batch = ("training.batch_size=6", "final_bn=false")
    options: dict[str, Any] = {"memory_budget_bytes": budget * MIB, "note": notes.append}
    summary = make_trainer(network(), [stage], *AUTO, *batch, **options).run()
    assert (summary.precision, summary.micro_batch) == ("bf16", micro_batch)
    assert said in next(note for note in notes if "precision" in note)
    assert ", ".join(name for name, _ in itertools.groupby(half_in_bf16)) == tries
    json.dumps(summary.precision_measured, allow_nan=False)
