"""Negative learning beside other methods' terms: its value, what it leaves alone, whole runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loss_cases import pixels, softmax
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import Batch, CropSampler
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.methods import build_stages, resolve_config
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.networks import Output, SegmentationNetwork
from roadshift.adapt.run.config import (
    AugmentConfig,
    NegativeLearningConfig,
    RunConfig,
    TrainingConfig,
)
from roadshift.adapt.run.workspace import HISTORY
from roadshift.adapt.training.negative_learning import TERM, NegativeLearning
from roadshift.runtime.bundle import Bundle, InputSpec, open_bundle
from roadshift.runtime.errors import ConfigError, NetworkError
from run_cases import Entropy, Killed, equal, kill_at, stage_context, values, weights
from torch import Tensor

WIDTH, HEIGHT, CLASSES, FRAMES = 24, 16, 4, 4
WEIGHT = 0.7
Network = Callable[..., SegmentationNetwork]
Adapt = Callable[..., Bundle]
# Methods that give the student a frame, mixed frames, and mixed frames beside plain ones.
METHODS: dict[str, tuple[str, ...]] = {
    "iapc": ("iapc.pseudo_labels=online",),
    "nightshift": ("nightshift.align=false", "nightshift.scales=[1.0]"),
    "das3": ("das3.variant=paper",),
    "ld": ("ld.variant=paper",),
}


def frames() -> FrameSet:
    shape = (FRAMES, HEIGHT // 4, WIDTH // 4, 3)
    blocks = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return FrameSet(
        [f"f{i}" for i in range(FRAMES)],
        WIDTH,
        HEIGHT,
        blocks.repeat(4, axis=1).repeat(4, axis=2).__getitem__,
    )


def context(folder: Path, method: str, **negative: Any) -> Context:
    spec = InputSpec(width=WIDTH, height=HEIGHT, mean=(120, 110, 100), std=(60, 60, 60))
    config = RunConfig(
        method=method,
        training=TrainingConfig(batch_size=2),
        negative_learning=NegativeLearningConfig(**negative),
    )
    return stage_context(folder, frames(), Normalise(spec), config)


def batch() -> Batch:
    return CropSampler(frames(), TrainingConfig(batch_size=2), AugmentConfig(), seed=0).batch(0)


def terms_of(
    method: str, number: int, folder: Path, model: SegmentationNetwork, **negative: Any
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The terms of a stage's first batch, and the logits that a gradient flows through."""
    stage = build_stages(resolve_config(method, assignments=METHODS[method]))[number]
    folder.mkdir()
    surroundings = context(folder, method, **negative)
    stage.begin(model, surroundings)
    stage.prepare()
    seen: list[Tensor] = []

    def see(_: object, __: object, output: Output) -> None:
        if output.logits.requires_grad:
            seen.append(output.logits)

    hook = model.register_forward_hook(see)
    torch.manual_seed(5)
    if negative:
        terms = NegativeLearning(model, surroundings).losses(stage, batch())
    else:
        terms = stage.losses(batch())
    hook.remove()
    return terms, seen


STAGES = [("iapc", 0), ("nightshift", 0), ("das3", 0), ("das3", 1), ("das3", 2), ("ld", 0)]


@pytest.mark.parametrize(("method", "number"), STAGES, ids=str)
def test_the_term_is_the_slow_loop_and_leaves_the_methods_own_terms_alone(
    method: str, number: int, tmp_path: Path, network: Network
) -> None:
    negative = {"weight": WEIGHT, "rank_spread": 0}
    alone, _ = terms_of(method, number, tmp_path / "alone", network())
    beside, seen = terms_of(method, number, tmp_path / "beside", network(), **negative)
    term = beside.pop(TERM)
    assert values(beside) == values(alone)  # bit for bit
    total = count = 0.0
    for logits in seen:
        for z in pixels(logits.detach().double(), (HEIGHT, WIDTH), False):
            total += -math.log(1 - sorted(softmax(z), reverse=True)[CLASSES // 2 - 1])
            count += 1
    assert count > 0
    assert term.item() == pytest.approx(WEIGHT * total / count, rel=1e-5)
    assert term.requires_grad


@pytest.mark.parametrize("rule", ["ranked", "ranked_below", "random"])
@pytest.mark.parametrize("draw", ["pixel", "step"])
def test_ranks_follow_the_settings_and_the_seed(
    rule: str, draw: str, tmp_path: Path, network: Network
) -> None:
    chosen = {"weight": 1, "complementary": rule, "rank_draw": draw}
    one, two = (
        terms_of("iapc", 0, tmp_path / name, network(0, dropout=0.0), **chosen)[0][TERM].item()
        for name in "ab"
    )
    assert one == two
    fixed = {"weight": 1, "rank_spread": 0}
    plain = terms_of("iapc", 0, tmp_path / "c", network(0, dropout=0.0), **fixed)[0][TERM].item()
    assert math.isfinite(one)
    if draw == "pixel" and rule != "ranked_below":  # of 4 classes, one-sided is always rank 2
        assert one != plain


def test_several_passes_of_the_student_count_by_their_images(
    tmp_path: Path, network: Network
) -> None:
    class Twice(Entropy):
        """The batch, and then its first image alone."""

        def losses(self, batch: Batch) -> dict[str, Tensor]:
            return {**super().losses(batch), "again": super().losses(batch.part(0, 1))["entropy"]}

    model, stage = network(0, dropout=0.0), Twice()
    surroundings = context(tmp_path, "iapc", weight=1.0, rank_spread=0)
    stage.begin(model, surroundings)
    passes: list[Tensor] = []
    hook = model.register_forward_hook(lambda _, __, output: passes.append(output.logits))
    term = NegativeLearning(model, surroundings).losses(stage, batch())[TERM].item()
    hook.remove()
    assert [len(logits) for logits in passes] == [2, 1]
    total = [
        -math.log(1 - sorted(softmax(z), reverse=True)[CLASSES // 2 - 1])
        for logits in passes
        for z in pixels(logits.detach().double(), (HEIGHT, WIDTH), False)
    ]
    assert term == pytest.approx(sum(total) / len(total), rel=1e-5)


def test_a_stage_that_asks_the_student_nothing_is_refused(tmp_path: Path, network: Network) -> None:
    class Idle(Entropy):
        """Terms that do not come from the student's logits."""

        def losses(self, batch: Batch) -> dict[str, Tensor]:
            del batch
            return {"idle": next(self.model.parameters()).sum()}

    model, stage = network(), Idle()
    surroundings = context(tmp_path, "iapc", weight=1.0)
    stage.begin(model, surroundings)
    with pytest.raises(NetworkError, match="negative_learning: entropy asked the student"):
        NegativeLearning(model, surroundings).losses(stage, batch())
    assert not model._forward_hooks


@pytest.mark.parametrize(
    ("method", "assignments", "message"),
    [
        ("bn_stats", ("negative_learning.weight=1",), "bn_stats takes no steps"),
        ("tone_only", ("negative_learning.weight=1",), "tone_only takes no steps"),
        ("iapc", ("negative_learning.weight=1", "training.compile=true"), "training.compile hides"),
        ("iapc", ("negative_learning.weight=-1",), "negative_learning.weight: .*greater than"),
        ("iapc", ("negative_learning.speed=1",), "unknown key 'negative_learning.speed'"),
    ],
)
def test_settings_without_a_meaning_are_refused(
    method: str, assignments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config(method, assignments=assignments)


def test_it_is_off_by_default() -> None:
    assert all(resolve_config(method).negative_learning.weight == 0 for method in METHODS)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("method", ["nightshift", "iapc", "das3"])
def test_a_run_with_it_learns_otherwise_and_resumes_exactly(
    method: str, adapt: Adapt, tmp_path: Path
) -> None:
    sizes = ("training.frame_size=[48,32]", "training.crop_size=[48,32]")
    small = ("tone=none", "training.steps=6", *sizes, *METHODS[method])
    negative = (*small, "negative_learning.weight=1")
    plain = weights(adapt(*small, method=method, out=tmp_path / "plain"))
    whole = adapt(*negative, method=method, out=tmp_path / "whole")
    assert not equal(weights(whole), plain)
    for step in (2, 5):
        with pytest.raises(Killed):
            adapt(
                *negative,
                method=method,
                out=tmp_path / "out",
                report=kill_at(step),
                resume=True,
                checkpoint_every_s=0,
            )
    again = adapt(*negative, method=method, out=tmp_path / "out", resume=True)
    assert equal(weights(again), weights(whole))
    history = (again.path / HISTORY).read_text()
    assert history == (whole.path / HISTORY).read_text()
    assert all(TERM in json.loads(line)["losses"] for line in history.splitlines())
    configuration: Any = open_bundle(again.path).manifest.provenance.configuration
    assert configuration["negative_learning"]["weight"] == 1
