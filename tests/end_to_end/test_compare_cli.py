"""`roadshift compare`: what it prints and leaves, how it is stopped, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
from roadshift.runtime.bundle import open_bundle

Command = Callable[..., Any]

# DESIGN: the keys that a program may rely on, and what `compare` adds to them.
DESIGN_KEYS = {"method", "miou", "gain", "iou", "seconds", "peak_mib", "collapsed"}
KEYS = DESIGN_KEYS | {"variant", "steps_per_s", "classes_lost"}
GIVEN = ("--set", "statistics_share=0.5")  # which a run need not find then
SMALL = ("--steps", "2", "--set", "training.batch_size=2", "--set", "iapc.pseudo_labels=online")


def process(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "roadshift.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def compare(world: Any, command: Command, tmp_path: Path) -> Command:
    """``compare("--methods", ...)`` of the dusk frames, measured on themselves."""
    frames, labels = world.dusk / "images", world.dusk / "labels"

    def run(*arguments: object, out: Path = tmp_path / "out") -> Any:
        return command(
            "compare", world.source, frames, "--labels", labels, "--out", out, *GIVEN, *arguments
        )

    return run


def test_it_prints_one_json_list_and_leaves_a_page(
    compare: Command, world: Any, tmp_path: Path
) -> None:
    frames, out = world.dusk / "images", tmp_path / "out"
    done = compare("--images", frames, "--methods", "bn_stats,iapc", "--json", *SMALL)
    assert done.code == 0, done.err
    rows, stderr = done.json, done.err
    assert [row["method"] for row in rows] == ["source only", "bn_stats", "iapc"]
    assert [set(row) for row in rows] == [KEYS] * 3
    for row in rows:
        assert row["gain"] == pytest.approx(row["miou"] - rows[0]["miou"])
        assert set(row["iou"]) == set(open_bundle(world.source).label_space.classes)
    assert "compare: 2/2 done iapc, seed 0, iapc: " in stderr
    assert "iapc, seed 0 (run 2 of 2)" in stderr
    assert f"wrote {out / 'compare.md'}" in stderr
    assert json.loads((out / "compare.json").read_text()) == rows
    page = (out / "compare.md").read_text()
    assert f"    roadshift compare {world.source} {frames} --labels" in page
    assert f"| iapc | {rows[2]['miou']:.2f} | {rows[2]['gain']:.2f} |" in page
    assert cv2.imread(str(out / "compare.png")) is not None
    assert cv2.imread(str(out / "strips.png")) is not None
    assert open_bundle(out / "runs/iapc-roadshift-seed0").manifest.provenance.method == "iapc"


def test_the_same_command_again_gives_the_same_rows_at_once(compare: Command) -> None:
    first = compare("--methods", "bn_stats", "--seeds", 2, "--json")
    again = compare("--methods", "bn_stats", "--seeds", 2, "--json")
    assert again.json == first.json
    assert set(first.json[1]) == KEYS | {"seeds", "miou_std", "gain_std"}
    assert [seed["seed"] for seed in first.json[1]["seeds"]] == [0, 1]
    assert again.err.count("taken up from") == 2
    assert "measuring" in first.err
    assert "measuring" not in again.err


def test_the_figures_are_those_of_eval(compare: Command, command: Command, world: Any) -> None:
    rows = {row["method"]: row for row in compare("--methods", "bn_stats", "--json").json}
    measured = command("eval", world.source, *world.labelled, "--backend", "torch", "--json").json
    assert rows["source only"]["miou"] == measured["miou"]
    assert rows["source only"]["iou"] == measured["iou"]


def test_the_table_has_a_row_a_method_and_the_sentence_of_one_that_failed(
    compare: Command,
) -> None:
    own = ("--methods", "iapc,bn_stats", "--set", "iapc.feature_layer=nowhere")
    done = compare(*own, *SMALL)
    assert done.code == 0
    lines = done.out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "method",
        "source only",
        "iapc",
        "bn_stats",
    ]
    assert lines[3].rstrip().endswith("failed")
    assert lines[-1].startswith("iapc: feature_layer 'nowhere'")


def test_where_every_method_fails_the_exit_code_is_1(compare: Command) -> None:
    own = ("--methods", "iapc", "--set", "iapc.feature_layer=nowhere", "--json")
    done = compare(*own, *SMALL)
    assert done.code == 1
    assert [row.get("error", "")[:13] for row in done.json] == ["", "feature_layer"]


def test_a_signal_stops_it_between_two_steps_and_it_says_how_to_go_on(
    world: Any, tmp_path: Path
) -> None:
    frames, labels = world.dusk / "images", world.dusk / "labels"
    started = process(
        *("compare", world.source, frames, "--labels", labels, "--methods", "bn_stats,iapc"),
        *("--out", tmp_path / "out", *GIVEN, *SMALL, "--steps", 100_000),
    )
    with started:
        assert started.stderr is not None
        assert any("iapc, seed 0, iapc: " in line for line in started.stderr)
        started.send_signal(signal.SIGTERM)
        said = started.stderr.read()
    assert started.returncode == 130
    assert said.endswith(
        "error: Stopped at iapc, seed 0, with 1 of 2 runs done; the same command goes on from "
        "there.\n"
    )
    runs = tmp_path / "out/runs"
    assert (runs / "iapc-roadshift-seed0.run/checkpoint.safetensors").exists()
    assert open_bundle(runs / "bn_stats-roadshift-seed0").manifest.provenance.method == "bn_stats"
    assert not (tmp_path / "out/compare.md").exists()


def test_what_cannot_be_compared_is_refused_in_one_sentence(
    refused: Callable[..., str], unchanged: Callable[..., Any], world: Any, tmp_path: Path
) -> None:
    frames, labels = world.dusk / "images", world.dusk / "labels"
    start = ("compare", world.source, frames, "--labels", labels, "--out", tmp_path / "out")
    with unchanged():
        refused(*start, "--methods", "iapc,magic", says=["'magic' is unknown", "bn_stats"])
        refused(*start, "--set", "training.stepz=1", says=["training.stepz"])
        refused(*start, "--device", "tpu", "--methods", "bn_stats", says=["tpu"])
        refused(*start[:2], *start[2:3] * 2, *start[3:], says=["--images"])
        refused(*start[:-1], world.source, says=["is a bundle"])
        refused(*start[:-1], tmp_path / "no/out", says=["not an existing folder"])
        refused(*start[:4], frames, *start[5:], says=["have no label map"])
    with unchanged(world.source):
        refused(*start[:-1], world.source, "--overwrite", says=["is a bundle"])
