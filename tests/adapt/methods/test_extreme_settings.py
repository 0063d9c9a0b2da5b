"""The largest and the smallest numbers that settings may hold: a run works, or says why not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from roadshift.adapt import METHODS, RunOptions, adapt_bundle
from roadshift.adapt.methods import find_method, resolve_config
from roadshift.adapt.run.config import (
    LARGEST,
    AugmentConfig,
    RunConfig,
    Settings,
    TrainingConfig,
)
from roadshift.adapt.training.trainer import Trainer
from roadshift.adapt.workflows.method_variants import choose_variants
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.errors import ConfigError, RoadshiftError, TrainingError
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("one_thread")

# How long a run takes, or how much memory, is another question than whether its numbers hold.
OF_LENGTH = {"steps", "batch_size", "micro_batch", "frame_size", "rounds"}
LARGE = (str(LARGEST), "8", "[8.0]")  # of which a field takes one or two
VALUES = (*LARGE, "1e-320", "[1e-300, 1e9]")


def accepted(method: str, name: str) -> list[RunConfig]:
    """The settings of short runs in which the field ``name`` is as extreme as it may be."""
    found = []
    for value in VALUES:
        try:
            config = resolve_config(method, assignments=[f"{name}={value}", "tone=none"])
        except ConfigError:
            continue
        if value in LARGE and found:
            continue
        short = {"batch_size": 2, "amp": "off", "micro_batch": None}
        if config.training.steps and name != "training.steps":
            short["steps"] = 3
        training = config.training.model_copy(update=short)
        found.append(config.model_copy(update={"training": training}))
    return found


def numbers(section: type[Settings]) -> list[str]:
    """The fields of a section that hold numbers."""
    return [
        name
        for name, field in section.model_fields.items()
        if name not in OF_LENGTH and re.search("int|float", str(field.annotation))
    ]


FIELDS = [
    *(("iapc", f"training.{name}") for name in numbers(TrainingConfig)),
    *(("iapc", f"augment.{name}") for name in numbers(AugmentConfig)),
    *(("iapc", name) for name in ("seed", "weight_interpolation", "bn_batch_size", "watch.every")),
    *(
        (method, f"{method}.{name}")
        for method in ("nightshift", "iapc", "ld")
        for name in numbers(find_method(method).Config)
    ),
]


@pytest.mark.parametrize(("method", "name"), FIELDS)
def test_an_extreme_number_is_a_model_of_finite_weights_or_a_sentence(
    method: str, name: str, source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    for number, config in enumerate(accepted(method, name)):
        out = tmp_path / str(number)
        try:
            adapt_bundle(source, [frames_dir], config, RunOptions(out, device="cpu"))
        except RoadshiftError:
            assert not out.exists()
        else:
            weights = load_file(out / "model.safetensors")
            assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("steps", [1, 20])
def test_a_learning_rate_that_breaks_the_weights_publishes_nothing(
    optimizer: str,
    steps: int,
    source: Bundle,
    frames_dir: Path,
    tmp_path: Path,
    settings: Callable[..., RunConfig],
) -> None:
    config = settings(
        f"training.lr={LARGEST}",
        f"training.classifier_lr_factor={LARGEST}",
        f"training.optimizer={optimizer}",
        f"training.steps={steps}",
        f"training.weight_decay={LARGEST}",
        "training.momentum=0.9",
    )
    out = tmp_path / "out"
    try:
        adapt_bundle(source, [frames_dir], config, RunOptions(out, device="cpu"))
    except TrainingError as error:
        assert "lower training.lr" in str(error)  # noqa: PT017 - either is right
        assert not out.exists()
    else:
        tensors = load_file(out / "model.safetensors").values()
        assert all(math.isfinite(float(tensor.float().abs().max())) for tensor in tensors)


def test_weights_that_are_no_numbers_are_not_published(
    source: Bundle,
    frames_dir: Path,
    tmp_path: Path,
    settings: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def spoilt(trainer: Trainer) -> object:
        summary = run(trainer)
        with torch.no_grad():
            trainer.model.get_parameter("classifier.bias")[0] = float("nan")
        return summary

    run = Trainer.run
    monkeypatch.setattr(Trainer, "run", spoilt)
    with pytest.raises(TrainingError, match=r"classifier\.bias holds values .* lower training\.lr"):
        adapt_bundle(source, [frames_dir], settings(), RunOptions(tmp_path / "out", device="cpu"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seeds", [0, -1, 1001, 10**30])
def test_as_many_seeds_as_no_one_runs_are_refused(seeds: int) -> None:
    with pytest.raises(ConfigError, match=r"seeds .*: give 1 to"):
        choose_variants(["bn_stats"], seeds=seeds)
    assert "bn_stats" in METHODS
