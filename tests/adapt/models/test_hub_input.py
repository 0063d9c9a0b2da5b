"""Inputs that preprocessor_config.json says, in the units of a bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from roadshift.adapt.models.hub_input import DEFAULT_SIZE, HubInput, hub_input
from roadshift.runtime.errors import ConfigError, Sentence

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
PLAIN = {"image_mean": MEAN, "image_std": STD, "size": {"height": 64, "width": 96}}


def found(settings: dict[str, Any], **given: Any) -> HubInput:
    values = {"size": None, "colour": None, "mean": None, "std": None, **given}
    return hub_input(settings, "p.json", **values)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
        {"do_normalize": False},
        {"image_mean": 0.5, "image_std": 0.25},
    ],
    ids=str,
)
def test_the_bundle_computes_what_the_processor_computes(change: dict[str, Any]) -> None:
    settings = {**PLAIN, **change}
    image = np.random.default_rng(0).uniform(0, 255, (4, 5, 3))
    theirs = image * (settings.get("rescale_factor", 1 / 255) if "do_rescale" not in change else 1)
    if settings.get("do_normalize", True):
        theirs = (theirs - settings["image_mean"]) / settings["image_std"]
    seen = found(settings)
    np.testing.assert_allclose((image - seen.mean) / seen.std, theirs, rtol=1e-4, atol=1e-4)
    assert seen.colour == "rgb"


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": {"height": 64, "width": 96}}, (96, 64)),
        ({"size": 512}, (512, 512)),
        ({"size": {"shortest_edge": 256}}, (512, 256)),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}, (224, 224)),
        ({"size": 512, "do_center_crop": False, "crop_size": 224}, (512, 512)),
        ({}, DEFAULT_SIZE),
    ],
)
def test_the_size_is_that_of_the_last_step(settings: dict[str, Any], size: tuple[int, int]) -> None:
    statistics = {"image_mean": MEAN, "image_std": STD}
    assert found({**statistics, **settings}).size == size
    assert found({**statistics, **settings}, size=(48, 32)).size == (48, 32)


def test_mobilevit_flips_channels_and_does_not_normalise_unless_told() -> None:
    settings = {**PLAIN, "image_processor_type": "MobileViTImageProcessor"}
    seen = found(settings)
    assert (seen.colour, seen.mean, seen.std) == ("bgr", (0, 0, 0), (255, 255, 255))
    assert found({**settings, "do_flip_channel_order": False}).colour == "rgb"
    assert found(settings, colour="rgb").colour == "rgb"


def test_what_a_user_gives_comes_first_and_is_said() -> None:
    seen = found({"size": 64}, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), colour="bgr")
    assert (seen.mean, seen.std, seen.colour) == ((1, 2, 3), (4, 5, 6), "bgr")
    assert seen.told[1:] == (
        "BGR (as you say)",
        "mean 1, 2, 3, std 4, 5, 6 in 0-255 units (as you say)",
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_mean": None}, "names no image_mean; give"),
        ({"image_std": [1, 0, 1]}, r"says \[1, 0, 1\] for image_std"),
        ({"image_mean": [1, 2]}, "image_mean"),
        ({"image_mean": ["a", "b", "c"]}, "image_mean"),
        ({"size": {"longest_edge": 3}}, "is no size; give input_size"),
        ({"size": {"height": "x", "width": 3}}, "is no size"),
        ({"size": -4}, "is no size"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"do_rescale": "yes"}, "neither true nor false"),
    ],
)
def test_what_is_malformed_is_one_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^p\.json: .*{said}"):
        found({**PLAIN, **change})


def test_a_file_that_is_not_there_is_said_to_be() -> None:
    with pytest.raises(
        ConfigError, match=r"^p\.json: is not there, or empty, .*123\.675,116\.28,103\.53 and 58"
    ):
        hub_input({}, "p.json", size=(96, 64), colour=None, mean=None, std=None)


def test_what_is_assumed_without_a_file_is_said_to_be() -> None:
    seen = found({}, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    assert [Sentence(told) for told in seen.told[:2]] == [
        "input 1024x512 (assumed; input_size gives another)",
        "RGB (assumed; colour gives another)",
    ]
    assert "assumed" not in "".join(found(PLAIN).told)
