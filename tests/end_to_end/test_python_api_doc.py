"""Every example of docs/python-api.md runs as it stands on the page, one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import roadshift
from roadshift.adapt.methods import METHODS
from roadshift.adapt.models.importing import save_weights
from roadshift.adapt.networks import build_network
from roadshift.adapt.networks import registry as networks
from roadshift.runtime.engines import registry as engines
from roadshift.runtime.frames import live_registry, readers
from roadshift.scenes import render_dataset
from traced_cases import fewer_layers

PAGE = Path(__file__).parents[2] / "docs" / "python-api.md"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples() -> list[tuple[int, str]]:
    """The page's blocks of Python, each with the line that it begins on."""
    page = PAGE.read_text(encoding="utf-8")
    return [(page[: found.start(1)].count("\n"), found[1]) for found in FENCE.finditer(page)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with what the examples find; registries are as before in the end.

    Its networks have fewer of the layers that only repeat.
    """
    for name, domain, count in (
        ("source", "daylight", 4),
        ("target", "dusk", 6),
        ("heldout", "dusk", 4),
    ):
        render_dataset(tmp_path / "scenes" / name, domain, count, seed=7, width=128, height=64)
    monkeypatch.setattr(METHODS, "_registered", dict(METHODS._registered))
    for registry in (networks, engines, live_registry, readers):
        monkeypatch.setattr(registry, "_REGISTERED", {})
    monkeypatch.chdir(tmp_path)
    with fewer_layers():
        weights = save_weights(build_network("fast_scnn", 19))
        (tmp_path / "weights.safetensors").write_bytes(weights)
        yield tmp_path


def test_the_examples_run_in_the_order_of_the_page(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"__name__": "examples"}
    for line, code in examples():
        exec(compile("\n" * line + code, str(PAGE), "exec"), names)
    said = capsys.readouterr().out
    assert "ConfigError time_budget_s time_budget_s: 0 is no finite number above 0." in said
    assert {"source", "imported", "adapted", "learned", "certain", "own-network"} <= {
        path.name for path in folder.iterdir()
    }
    assert roadshift.open_slots("slots").state().trial is not None
    assert (folder / "report.html").exists()
    for bundle, method in (("adapted", "iapc"), ("certain", "entropy"), ("source", "train")):
        assert roadshift.open_bundle(bundle).manifest.provenance.method == method


def test_the_page_uses_every_promised_function() -> None:
    code = "\n".join(code for _, code in examples())
    page = PAGE.read_text(encoding="utf-8")
    for name in roadshift.__all__:
        if name.startswith("__") or name.endswith(("Config", "Error", "Interrupted")):
            continue
        assert f"`{name}`" in page, name
        if name[0].islower():
            assert name in code or name == "open_bundle", name
