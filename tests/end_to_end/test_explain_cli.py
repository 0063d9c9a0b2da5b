"""`roadshift explain`: what it prints, leaves and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def explain(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "roadshift.cli", "explain", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_page_of_an_adapted_model_beside_its_source(
    world: Any, command: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "seen"
    words = (world.adapted, world.dusk / "images", "--source", world.source, "--out", out)
    done = command("explain", *words, "--max-frames", 2, "--device", "cpu", "--json")
    assert done.code == 0, done.err
    said = done.json
    assert said == json.loads((out / "explanation.json").read_text(encoding="utf-8"))
    assert (said["out"], said["page"]) == (str(out), str(out / "index.html"))
    assert len(said["frames"]) == 2
    for frame in said["frames"]:
        assert all((out / file).is_file() for file in frame["figures"].values())
    assert "explaining: 0/2 frames" in done.err
    assert "using 2 of 4 frames, evenly spaced (--max-frames)" in done.err
    again = command("explain", *words)
    assert again.code == 1
    assert again.out == ""
    assert again.err.splitlines()[-1] == (
        f"error: {out}: already exists; choose another name or use --overwrite."
    )


def test_a_method_that_has_no_figures_is_one_sentence(
    world: Any, command: Callable[..., Any], tmp_path: Path
) -> None:
    words = (world.adapted, world.dusk / "images", "--method", "tent", "--out", tmp_path / "x")
    done = command("explain", *words)
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert last == "error: --method 'tent' is none of iapc, ld, atp, all."
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_is_not_there_is_told_of_before_torch_is_loaded(
    world: Any, tmp_path: Path
) -> None:
    words = (world.dusk / "images", "--source", tmp_path / "gone", "--out", tmp_path / "x")
    done = explain(world.adapted, *words)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path / 'gone'}: does not exist; give the folder that holds manifest.json.\n"
    )
