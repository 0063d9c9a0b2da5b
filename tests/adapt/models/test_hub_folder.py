"""Folders of the hub: settings and weights, whole or in shards, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from roadshift.adapt.models.hub_folder import read_hub_folder, read_hub_weights
from roadshift.runtime.errors import NetworkError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(2)}
CONFIG = {"model_type": "segformer", "id2label": {"0": "road", "1": "sky"}}


def folder(path: Path, config: Any = CONFIG, **files: Any) -> str:
    path.mkdir()
    for name, content in {"config": config, **files}.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / f"{name}.json").write_text(text)
    return f"hf:{path}"


def test_settings_are_read(tmp_path: Path) -> None:
    source = folder(tmp_path / "m", preprocessor_config={"size": 64})
    read = read_hub_folder(source)
    assert (read.model_type, read.class_names) == ("segformer", ("road", "sky"))
    assert (read.preprocessing, read.preprocessing_file) == (
        {"size": 64},
        "preprocessor_config.json",
    )


def test_a_processor_may_hold_the_input(tmp_path: Path) -> None:
    source = folder(tmp_path / "m", processor_config={"image_processor": {"size": 64}})
    assert read_hub_folder(source).preprocessing == {"size": 64}


def test_class_names_follow_their_indices_not_the_file(tmp_path: Path) -> None:
    config = {**CONFIG, "id2label": {"10": "k", **{str(i): f"c{i}" for i in range(10)}}}
    assert read_hub_folder(folder(tmp_path / "m", config)).class_names[10] == "k"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "is no JSON object"),
        ({}, "names no model_type"),
        ({**CONFIG, "id2label": {"0": "a", "2": "b"}}, "no table of the classes"),
        ({**CONFIG, "id2label": {"x": "a"}}, "no table of the classes"),
        ({**CONFIG, "id2label": ["a"]}, "no table of the classes"),
        ({**CONFIG, "id2label": {"0": 3}}, "no table of the classes"),
    ],
)
def test_a_malformed_config_is_one_sentence(tmp_path: Path, config: Any, said: str) -> None:
    with pytest.raises(NetworkError, match=rf"config\.json: .*{said}"):
        read_hub_folder(folder(tmp_path / "m", config))


def test_a_name_on_the_hub_is_not_downloaded() -> None:
    with pytest.raises(NetworkError, match=r"nothing is downloaded here.*hf download org/model"):
        read_hub_folder("hf:org/model")


def test_a_folder_without_config_is_none_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"holds no config\.json"):
        read_hub_folder(f"hf:{tmp_path}")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [False, True])
def test_weights_are_read_whole_and_in_shards(tmp_path: Path, kind: str, shards: bool) -> None:
    source = folder(tmp_path / "m")
    stem = "model" if kind == "safetensors" else "pytorch_model"
    parts = [{n: t} for n, t in STATE.items()] if shards else [STATE]
    places = {}
    for i, part in enumerate(parts):
        name = f"{stem}-{i}.{kind}" if shards else f"{stem}.{kind}"
        places.update(dict.fromkeys(part, name))
        if kind == "bin":
            torch.save(part, tmp_path / "m" / name)
        else:
            safetensors.torch.save_file(part, tmp_path / "m" / name)
    if shards:
        index = tmp_path / "m" / f"{stem}.{kind}.index.json"
        index.write_text(json.dumps({"weight_map": places}))
    state, where = read_hub_weights(read_hub_folder(source))
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in STATE.items())
    assert where.endswith(f"{stem}.{kind}.index.json" if shards else f"{stem}.{kind}")


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"a.weight": "../secret.safetensors"}, "does not lie beside it"),
        ({"a.weight": "/etc/passwd"}, "does not lie beside it"),
        ({"a.weight": "gone.safetensors"}, "does not lie beside it"),
        ({"a.weight": "one.safetensors", "c": "one.safetensors"}, "are in none of its files"),
        ({"a.weight": "one.safetensors", "b.weight": "two.safetensors"}, "another file .* holds"),
        ({"a.weight": 3}, "has no weight_map"),
        ([], "has no weight_map"),
    ],
)
def test_an_index_that_leads_astray_is_refused(tmp_path: Path, places: Any, said: str) -> None:
    source = folder(tmp_path / "m")
    for name in ("one", "two"):
        safetensors.torch.save_file(STATE, tmp_path / "m" / f"{name}.safetensors")
    index = tmp_path / "m" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(NetworkError, match=said):
        read_hub_weights(read_hub_folder(source))


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"holds none of model\.safetensors"):
        read_hub_weights(read_hub_folder(folder(tmp_path / "m")))
