"""The installed transformers' segmentation networks: built from settings alone."""

from __future__ import annotations

from typing import Any

import pytest
from roadshift.adapt.networks import build_network
from roadshift.adapt.networks.foreign.transformers_models import AUTO, model_settings
from roadshift.runtime.errors import NetworkError

NAME = f"transformers:{AUTO}"


@pytest.mark.parametrize(
    "attribute", ["pipeline", "AutoModel", "AutoModelForCausalLM", "AutoConfig", "utils"]
)
def test_nothing_else_of_the_package_can_be_named(attribute: str) -> None:
    with pytest.raises(NetworkError, match="only its classes for semantic segmentation are built"):
        build_network(f"transformers:{attribute}", 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"auto_map": {"AutoModel": "x--y.Z"}}, "names code of its own"),
        ({"quantization_config": {"bits": 4}}, "quantised weights"),
        ({"backbone": "resnet50"}, "names its backbone"),
        ({"backbone_config": {"auto_map": {"AutoModel": "x"}}}, "names code of its own"),
    ],
)
def test_settings_that_ask_for_code_or_a_download_are_refused(
    change: dict[str, Any], said: str
) -> None:
    with pytest.raises(NetworkError, match=rf"^c\.json: .*{said}"):
        model_settings({"model_type": "upernet", **change}, "c.json")


def test_settings_that_choose_code_are_left_out_at_every_depth() -> None:
    kernel = {"attn_implementation": "someone/kernel", "_attn_implementation": "someone/kernel"}
    config = {"model_type": "upernet", **kernel, "backbone_config": {"depths": [1], **kernel}}
    assert model_settings(config, "c") == {
        "model_type": "upernet",
        "backbone_config": {"depths": [1]},
    }


def test_without_settings_the_folder_is_asked_for() -> None:
    with pytest.raises(NetworkError, match="import that with hf:FOLDER"):
        build_network(NAME, 3)
