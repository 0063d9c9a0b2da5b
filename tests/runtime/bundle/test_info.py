"""`roadshift info`: what is known of a bundle, and nothing that is not. CPU only, seconds."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from roadshift.cli import app
from roadshift.runtime.bundle import BundleWriter, InputSpec, NetworkSpec, Provenance
from roadshift.runtime.labels import label_space
from typer.testing import CliRunner

KNOWN: dict[str, Any] = {
    "method": "iapc",
    "device": "CPU of the test",
    "parent": "ab" * 32,
    "frames": 0,
    "seed": 0,
}
CASES = [
    {key: KNOWN[key] for key in keys}
    for count in (0, 1, 4, 5)
    for keys in combinations(KNOWN, count)
]


@pytest.mark.parametrize("known", CASES, ids=lambda known: "-".join(known) or "nothing")
def test_what_is_known_is_printed_and_no_none(known: dict[str, Any], tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "bundle") as writer:
        writer.add_bytes("model.safetensors", b"weights", kind="weights")
        writer.commit(
            network=NetworkSpec(name="fast_scnn"),
            label_space=label_space("camvid11"),
            input=InputSpec(width=64, height=32, mean=(0, 0, 0), std=(1, 1, 1)),
            provenance=Provenance(**known),
        )
    result = CliRunner().invoke(app, ["info", str(tmp_path / "bundle")], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "None" not in result.output
    for key in ("parent", "frames", "seed"):
        words = [line.split() for line in result.output.splitlines() if line.startswith(key)]
        assert words == ([[key, str(known[key])]] if key in known else [])
    made = next(line for line in result.output.splitlines() if line.startswith("made by"))
    for key in ("method", "device"):
        assert (str(KNOWN[key]) in made) == (key in known)
