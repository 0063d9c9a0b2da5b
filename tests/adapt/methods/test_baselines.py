"""The baselines from bundle to bundle: what learns, what stands still, what the history says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from roadshift.adapt import Events, RunOptions, adapt_bundle, load_network
from roadshift.adapt.data.dataset import target_frames
from roadshift.adapt.methods import METHODS, build_stages, resolve_config
from roadshift.adapt.methods.pseudo import PseudoConfig, PseudoStage
from roadshift.adapt.methods.tent import TentStage
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.networks.batch_norm import batch_norm_layers
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.training import tone_alignment
from roadshift.adapt.training.tone_alignment import align_tone
from roadshift.adapt.training.trainer import Trainer
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.errors import ConfigError, NetworkError
from run_cases import run_options, weights
from torch import nn

Adapt = Callable[..., Bundle]
Network = Callable[..., SegmentationNetwork]
MakeTrainer = Callable[..., Trainer]

LEARNED = {"entmin", "tent", "shot_im", "pseudo", "pseudo_entmin", "pseudo_selected"}
TERMS = {
    "entmin": {"entropy"},
    "tent": {"entropy"},
    "shot_im": {"entropy", "diversity"},
    "pseudo": {"pseudo_label"},
    "pseudo_entmin": {"pseudo_label", "entropy"},
    "pseudo_selected": {"pseudo_label"},
}
CLASSIFIER = {"classifier.weight", "classifier.bias"}
SCALES_AND_SHIFTS = {
    f"{layer}_norm.{name}" for layer in ("first", "second") for name in ("weight", "bias")
}


@pytest.fixture
def adapt(
    source: Bundle, frames_dir: Path, tmp_path: Path, settings: Callable[..., RunConfig]
) -> Adapt:
    """``adapt("tent", "training.steps=2", out="a", resume=...)`` into ``tmp_path/a``."""

    def run(method: str, *assignments: str, out: str = "out", **options: Any) -> Bundle:
        steps = [] if method == "tone_only" else ["training.steps=3", "training.lr=0.01"]
        config = settings(*steps, *assignments, method=method)
        job = run_options(tmp_path / out, **options)
        return adapt_bundle(source, [frames_dir], config, job)

    return run


def changed(one: Bundle, other: Bundle) -> set[str]:
    before, after = weights(one), weights(other)
    assert before.keys() == after.keys()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def statistics(bundle: Bundle) -> set[str]:
    return {name for name in weights(bundle) if "running" in name or "num_batches" in name}


def terms(bundle: Bundle) -> list[dict[str, float]]:
    """The loss terms of every step, without their total."""
    lines = (bundle.path / "history.jsonl").read_text().splitlines()
    losses = [json.loads(line)["losses"] for line in lines]
    return [{k: v for k, v in values.items() if k != "total"} for values in losses]


# --- what learns ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(LEARNED))
def test_the_history_holds_the_terms_of_the_method(method: str, adapt: Adapt) -> None:
    history = terms(adapt(method))
    assert len(history) == 3
    for values in history:
        assert values.keys() == TERMS[method]
        assert all(value is not None for value in values.values())


@pytest.mark.parametrize("method", ["entmin", "pseudo", "pseudo_entmin"])
def test_every_weight_learns(method: str, adapt: Adapt, source: Bundle) -> None:
    assert changed(source, adapt(method)) == set(weights(source))


def test_shot_im_leaves_the_classifier_and_moves_the_rest(adapt: Adapt, source: Bundle) -> None:
    assert changed(source, adapt("shot_im")) == set(weights(source)) - CLASSIFIER


def test_tent_moves_scales_and_shifts_and_statistics_and_nothing_else(
    adapt: Adapt, source: Bundle
) -> None:
    assert changed(source, adapt("tent")) == SCALES_AND_SHIFTS | statistics(source)


@pytest.mark.usefixtures("one_thread")
def test_tents_bundle_has_the_statistics_of_whole_frames_under_the_final_scales(
    adapt: Adapt, frames_dir: Path, tmp_path: Path, settings: Callable[..., RunConfig]
) -> None:
    adapted = adapt("tent")
    config = settings(method="bn_stats")
    again = adapt_bundle(
        adapted, [frames_dir], config, RunOptions(tmp_path / "again", device="cpu")
    )
    assert not changed(adapted, again)


def test_the_papers_baselines_are_one_setting_apart(adapt: Adapt) -> None:
    pairs = {
        "pseudo_entmin": "pseudo.weight_entropy=1.0",
        "pseudo_selected": "pseudo.min_confidence=0.9",
    }
    for method, setting in pairs.items():
        named, set_by_hand = adapt(method, out=method), adapt("pseudo", setting, out=setting)
        assert not changed(named, set_by_hand)


# --- the stages ----------------------------------------------------------------------------------

NO_TONE = (
    "training.steps=30",
    "training.lr=0.02",
    "weight_interpolation=1.0",
    "warm_start=source",
    "freeze_bn=false",
    "final_bn=false",
)


@pytest.mark.parametrize("method", ["entmin", "tent", "shot_im", "pseudo_entmin"])
def test_the_loss_falls(method: str, make_trainer: MakeTrainer, network: Network) -> None:
    trainer = make_trainer(network(dropout=0.0), build_stages(resolve_config(method)), *NO_TONE)
    totals: list[float] = []
    trainer.events = Events(report=lambda progress: totals.append(progress.losses["total"]))
    trainer.run()
    assert mean(totals[-10:]) < mean(totals[:10])


def test_pseudo_labels_stay_those_of_the_starting_model(
    make_trainer: MakeTrainer, network: Network
) -> None:
    model, stage = network(), PseudoStage(PseudoConfig())
    make_trainer(model, [stage], *NO_TONE).run()
    start = network().state_dict()
    assert not torch.equal(model.state_dict()["classifier.weight"], start["classifier.weight"])
    for name, tensor in stage.teacher.state_dict().items():
        assert torch.equal(tensor, start[name]), name


def test_only_labels_above_the_confidence_count(adapt: Adapt) -> None:
    bounds = ("0.0", "0.999")
    all_pixels, none = (
        terms(adapt("pseudo_selected", f"pseudo_selected.min_confidence={bound}", out=bound))
        for bound in bounds
    )
    assert all(values["pseudo_label"] > 0 for values in all_pixels)
    assert all(values["pseudo_label"] == 0 for values in none)


def test_tent_computes_no_gradient_for_what_does_not_learn(
    make_trainer: MakeTrainer, network: Network
) -> None:
    model, stage = network(), TentStage()
    trainer = make_trainer(model, [stage])
    stage.begin(model, trainer.context)
    stage.losses(trainer.sampler.batch(0))["entropy"].backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == SCALES_AND_SHIFTS
    (group,) = stage.parameter_groups(model, 5.0)
    assert group.factor == 1
    assert {id(p) for p in group.parameters} == {
        id(p) for name, p in model.named_parameters() if name in SCALES_AND_SHIFTS
    }


def test_tent_uses_batch_statistics_even_where_a_network_keeps_its_own(
    make_trainer: MakeTrainer, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, stage = network().eval(), TentStage()
    monkeypatch.setattr(type(model), "train", lambda self: self)
    stage.begin(model, make_trainer(model, [stage]).context)
    assert [layer.training for layer in batch_norm_layers(model)] == [True, True]


def test_tent_refuses_a_network_without_batch_norm(
    make_trainer: MakeTrainer, network: Network
) -> None:
    trainer = make_trainer(network(norm=False), [TentStage()])
    with pytest.raises(NetworkError, match=r"tent learns .* this network has none; choose another"):
        trainer.run()


def test_tent_refuses_a_network_whose_scales_are_frozen(
    make_trainer: MakeTrainer, network: Network
) -> None:
    model = network()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    with pytest.raises(NetworkError, match="this network keeps them frozen; choose another"):
        make_trainer(model, [TentStage()]).run()


def test_tent_learns_the_layers_that_are_not_frozen(
    make_trainer: MakeTrainer, network: Network
) -> None:
    model, stage = network(), TentStage()
    model.get_submodule("first_norm").requires_grad_(False)
    stage.begin(model, make_trainer(model, [stage]).context)
    learn = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learn == {"second_norm.weight", "second_norm.bias"}


# --- tone alone ----------------------------------------------------------------------------------


def test_tone_writes_the_aligned_gamma_and_the_weights_of_the_source(
    adapt: Adapt, source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    before, cpu = source.manifest.input, torch.device("cpu")
    frames = target_frames([frames_dir], before.width, before.height, tmp_path)
    aligned = align_tone(load_network(source, cpu), frames, before, cpu)
    assert aligned.gamma != before.gamma
    bundle = adapt("tone_only")
    assert bundle.manifest.input == aligned
    assert not changed(source, bundle)
    assert bundle.manifest.provenance.method == "tone_only"
    assert bundle.artefact(kind="history") is None


def test_tone_that_does_not_help_gives_the_source_model(
    adapt: Adapt, source: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tone_alignment, "LEAST_GAIN", math.inf)
    bundle = adapt("tone_only")
    assert bundle.manifest.input == source.manifest.input
    assert not changed(source, bundle)


def test_tone_is_tone_alignment_without_a_step() -> None:
    config = resolve_config("tone_only")
    assert (config.tone, config.warm_start, config.final_bn) == ("auto", "source", False)
    assert config.training.steps == 0
    assert build_stages(config) == []


# --- settings and resuming -----------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(LEARNED | {"tone_only"}))
def test_only_our_recipe_is_offered_where_no_paper_gives_one(method: str) -> None:
    assert list(METHODS[method].presets) == ["roadshift"]


@pytest.mark.parametrize(
    "assignment",
    [
        "pseudo.weight_pseudo=0",
        "pseudo_entmin.weight_entropy=-1",
        "pseudo_selected.min_confidence=1.0",
        "shot_im.weight_diversity=-0.1",
        "tent.lr=1",
        "entmin.weight=2",
    ],
)
def test_a_setting_out_of_range_or_unknown_is_named(assignment: str) -> None:
    method, key = assignment.split("=")[0].split(".")
    with pytest.raises(ConfigError, match=rf"section {method}.*{key}"):
        resolve_config(method, assignments=[assignment])
