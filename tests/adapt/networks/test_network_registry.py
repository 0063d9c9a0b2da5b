"""The registry of networks: what a program registers is known everywhere, under its one name."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_network
import torch
from roadshift.adapt.methods import resolve_config
from roadshift.adapt.models.importing import save_weights
from roadshift.adapt.models.loading import load_network, network_spec
from roadshift.adapt.networks import build_network, network_summaries, register_network, registry
from roadshift.adapt.run.options import RunOptions
from roadshift.adapt.workflows.adaptation import train_bundle
from roadshift.cli import app
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.errors import NetworkError
from typer.testing import CliRunner


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """`tiny_network.build`, registered as "own-net.1"."""
    monkeypatch.setattr(registry, "_REGISTERED", {})
    register_network("own-net.1", tiny_network.build)
    return "own-net.1"


def test_a_registered_network_is_built_listed_and_imported(
    own: str, source: Bundle, tmp_path: Path
) -> None:
    assert build_network(own, 4, dropout=0.0).called == "with num_classes=4"
    (row,) = [row for row in network_summaries() if row.name == own]
    assert row.parameters == sum(p.numel() for p in build_network(own, 19).parameters())
    rows = json.loads(CliRunner().invoke(app, ["networks", "--json"]).stdout)
    assert rows[-1]["name"] == own
    space = tmp_path / "four.json"
    space.write_text(json.dumps(source.label_space.to_dict()))
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(save_weights(build_network(own, 4)))
    command = ["import", str(weights), "--network", own, "--label-space", str(space)]
    command += ["--input-size", "48x32", "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output


def test_a_bundle_of_a_registered_network_needs_no_leave(
    own: str, source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    for i, path in enumerate(sorted(frames_dir.iterdir())):
        assert cv2.imwrite(str(labels / path.name), np.full((32, 48), i % 4, np.uint8))
    trained = train_bundle(
        frames_dir,
        labels,
        source.label_space,
        network_spec(own),
        source.manifest.input,
        resolve_config("supervised", assignments=["training.steps=1", "training.batch_size=2"]),
        RunOptions(tmp_path / "out", device="cpu"),
    )
    assert trained.manifest.network.name == own
    load_network(trained, torch.device("cpu"))
    registry._REGISTERED.clear()
    with pytest.raises(NetworkError, match=f"there is no network '{own}'"):
        load_network(trained, torch.device("cpu"))


def test_the_decorator_gives_the_factory_back(own: str) -> None:
    del own
    decorated = register_network("decorated")(tiny_network.build)
    assert decorated is tiny_network.build
    assert register_network("decorated", tiny_network.build) is tiny_network.build  # again
    assert registry.added_networks() == ["own-net.1", "decorated"]


@pytest.mark.parametrize(
    ("name", "factory", "words"),
    [
        ("fast_scnn", tiny_network.build, "Roadshift has one of that name"),
        ("own-net.1", partial(tiny_network.build, norm=False), "has that name already"),
        ("a:b", tiny_network.build, "a name is letters"),
        ("", tiny_network.build, "a name is letters"),
        (3, tiny_network.build, "a name is letters"),
        ("other", 3, "3 is not a function or class"),
    ],
)
def test_a_taken_or_odd_name_is_refused(own: str, name: Any, factory: Any, words: str) -> None:
    before = [own]
    with pytest.raises(NetworkError, match=words):
        register_network(name, factory)
    assert registry.added_networks() == before


def test_a_network_that_cannot_be_listed_says_why_and_harms_no_other(own: str) -> None:
    def raises(num_classes: int) -> torch.nn.Module:
        raise OSError(f"no weights for {num_classes} classes")

    register_network("raises", raises)
    rows = {row.name: row for row in network_summaries()}
    assert rows["raises"].parameters is None
    assert "OSError: no weights for 19 classes" in rows["raises"].description
    assert rows[own].parameters is not None
    assert rows["fast_scnn"].parameters is not None
