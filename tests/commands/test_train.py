"""`roadshift train --variant` and `--init`, and the recipes of source models in configs/source."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from bundle_cases import write_bundle
from roadshift.adapt.methods import build_stages, resolve_config
from roadshift.adapt.models.loading import load_network
from roadshift.adapt.networks import NETWORKS, build_network
from roadshift.adapt.workflows.recipes import (
    SOURCES,
    find_recipe,
    read_recipe,
    recipe_names,
    settings_file,
)
from roadshift.cli import app
from roadshift.runtime.bundle import Bundle, InputSpec, NetworkSpec, open_bundle
from roadshift.runtime.console.flags import flag_of
from roadshift.runtime.errors import ConfigError
from roadshift.runtime.labels import label_space
from typer.testing import CliRunner

SOURCE_RECIPES = sorted(SOURCES.glob("*.toml"))


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Four images of 64x32 with labels of camvid11."""
    rng = np.random.default_rng(0)
    for kind, shape, most in (("images", (32, 64, 3), 256), ("labels", (32, 64), 11)):
        (tmp_path / kind).mkdir()
        for i in range(4):
            pixels = rng.integers(0, most, shape).astype(np.uint8)
            assert cv2.imwrite(str(tmp_path / kind / f"{i}.png"), pixels)
    return tmp_path


def train(folder: Path, *arguments: str) -> Any:
    sets = ("training.steps=1", "training.frame_size=[64,32]", "training.crop_size=[32,32]")
    given = [
        "train", "--images", str(folder / "images"), "--labels", str(folder / "labels"),
        "--label-space", "camvid11", "--network", "fast_scnn", "--input-size", "64x32",
        "--out", str(folder / "out"), "--device", "cpu",
        *(part for entry in sets for part in ("--set", entry)), *arguments,
    ]  # fmt: skip
    return CliRunner().invoke(app, given)


def test_the_variant_chooses_the_settings_and_the_file_of_the_backbone_is_told(
    labelled: Path,
) -> None:
    torch.manual_seed(3)
    network = build_network("fast_scnn", 19)
    backbone = {name: network.state_dict()[name] for name in network.backbone_names()}
    torch.save(backbone, labelled / "backbone.pth")
    result = train(labelled, "--variant", "paper", "--init", str(labelled / "backbone.pth"))
    assert result.exit_code == 0, result.output
    assert f"took {len(backbone)} tensors of the backbone" in result.output
    bundle = open_bundle(labelled / "out")
    told = bundle.manifest.provenance.configuration
    assert told["method_config"]["variant"] == "paper"  # type: ignore[index,call-overload]
    training = told["training"]
    assert (training["optimizer"], training["lr"], training["batch_size"]) == ("sgd", 2.5e-4, 1)  # type: ignore[index,call-overload]
    trained = load_network(bundle, torch.device("cpu")).state_dict()
    moved = max(float((trained[n] - v).abs().max()) for n, v in backbone.items() if v.ndim > 1)
    assert 0 < moved < 0.05  # a step from there


def test_a_variant_given_twice_or_unknown_is_refused(labelled: Path) -> None:
    twice = train(labelled, "--variant", "paper", "--set", "supervised.variant=roadshift")
    assert isinstance(twice.exception, ConfigError)
    assert "--variant paper and --set supervised.variant are both given" in str(twice.exception)
    unknown = train(labelled, "--variant", "best")
    assert isinstance(unknown.exception, ConfigError)
    said = "--variant 'best': the variants of supervised are roadshift, paper, finetune."
    assert str(unknown.exception) == said


def test_there_is_a_source_recipe_for_each_kind_of_source_model() -> None:
    names = [file.stem for file in SOURCE_RECIPES]
    assert names == ["cityscapes13", "gta5-vgg16", "gta5", "synthia"]
    assert not set(names) & set(recipe_names())  # `reproduce` adapts


@pytest.mark.parametrize("file", SOURCE_RECIPES, ids=lambda file: file.stem)
def test_a_source_recipe_is_the_published_one_and_its_command_serves_recipes(file: Path) -> None:
    config, preset = (
        resolve_config("supervised", file=file),
        resolve_config("supervised", assignments=["supervised.variant=paper"]),
    )
    frame = config.training.frame_size
    apart = {"frame_size": preset.training.frame_size, "frozen_lr": None}
    same = config.training.model_copy(update=apart)
    assert config.model_copy(update={"training": same}) == preset
    assert frame is not None
    assert frame[1] in (720, 760)
    training = config.training
    assert (training.optimizer, training.momentum, training.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (training.lr, training.classifier_lr_factor, training.poly_power) == (2.5e-4, 10, 0.9)
    assert training.scale == (0.5, 1.5)
    assert config.augment.policy == "none"
    assert [stage.name for stage in build_stages(config)] == ["supervised"]
    comment = re.sub(r"\\\n#", "", file.read_text())
    (line,) = (line for line in comment.splitlines() if "roadshift train" in line)
    words = shlex.split(line.lstrip("# "))
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options["--config"] == file.stem
    assert settings_file(Path(file.stem), SOURCES) == file
    assert options["--network"] in NETWORKS
    served = [read_recipe(find_recipe(name)) for name in recipe_names()]
    here = (options["--network"], label_space(options["--label-space"]).name)
    assert here in {(recipe.network, recipe.label_space) for recipe in served}


@pytest.fixture
def parent(tmp_path: Path) -> Bundle:
    """A small model whose input has a gamma of its own."""
    torch.manual_seed(3)
    return write_bundle(
        tmp_path / "parent",
        build_network("espnetv2", 11, scale=0.5),
        network=NetworkSpec(name="espnetv2", arguments={"scale": 0.5}),
        label_space=label_space("camvid11"),
        input=InputSpec(width=64, height=32, mean=(1, 2, 3), std=(50, 51, 52), gamma=0.8),
    )


def learn_on(folder: Path, *arguments: str) -> Any:
    given = ["--images", str(folder / "images"), "--labels", str(folder / "labels")]
    few = ["--init", str(folder / "parent"), "--set", "training.steps=1", "--device", "cpu"]
    return CliRunner().invoke(app, ["train", *given, *few, "--out", str(folder / "on"), *arguments])


def test_a_bundle_that_is_learned_on_from_says_network_classes_and_input(
    labelled: Path, parent: Bundle
) -> None:
    result = learn_on(labelled)
    assert result.exit_code == 0, result.output
    made = open_bundle(labelled / "on")
    assert made.manifest.network == parent.manifest.network
    assert made.manifest.input == parent.manifest.input
    assert made.label_space == parent.label_space
    assert made.manifest.provenance.parent == parent.hash
    told = made.manifest.provenance.configuration
    assert told["method_config"]["variant"] == "finetune"  # type: ignore[index,call-overload]
    models = [load_network(bundle, torch.device("cpu")).state_dict() for bundle in (parent, made)]
    before, after = models
    statistics = [name for name in before if "running_" in name]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    moved = max(float((after[n] - t).abs().max()) for n, t in before.items() if t.ndim == 4)
    assert 0 < moved < 2e-3  # a step of 5e-4 from there


def test_of_a_bundle_the_size_of_the_input_and_the_variant_can_be_others(
    labelled: Path, parent: Bundle
) -> None:
    result = learn_on(labelled, "--input-size", "48x32", "--variant", "roadshift")
    assert result.exit_code == 0, result.output
    made = open_bundle(labelled / "on").manifest
    assert made.input == parent.manifest.input.model_copy(update={"width": 48})
    told = made.provenance.configuration
    assert told["method_config"]["variant"] == "roadshift"  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--network", "espnetv2"),
        ("--argument", "scale=0.5"),
        ("--output", "out"),
        ("--label-space", "camvid11"),
    ],
)
def test_what_the_bundle_says_is_not_given_again(
    labelled: Path, parent: Bundle, option: str, value: str
) -> None:
    result = learn_on(labelled, option, value)
    assert isinstance(result.exception, ConfigError)
    said = f"{option}: {parent.path}, given as --init, says it; leave it out."
    assert result.exception.told(flag_of) == said


def test_without_a_bundle_network_and_classes_are_asked_for(labelled: Path) -> None:
    given = ["train", "--images", str(labelled / "images"), "--labels", str(labelled / "labels")]
    result = CliRunner().invoke(app, [*given, "--network", "unet", "--out", str(labelled / "out")])
    assert isinstance(result.exception, ConfigError)
    assert "label_space is missing: give it, or a bundle as initial" in str(result.exception)
