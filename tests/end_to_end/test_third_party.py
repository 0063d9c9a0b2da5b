"""An installed package adds a method, a network, an engine, a kind of recording and a live source.

One file each, and an entry point each.

The package is a folder with metadata on Python's path, as pip leaves one, and a process that knows
of it by its metadata alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from roadshift.scenes import render_dataset

SITE = Path(__file__).parents[1] / "third_party"  # a package and its metadata, as pip leaves them

SCRIPT = """
import json, roadshift
from roadshift.cli import app
from typer.testing import CliRunner

def command(*words):
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, ran.output
    return ran.stdout

found = {"methods": json.loads(command("methods", "--json"))}
found["networks"] = json.loads(command("networks", "--json"))
training = ["--set", "training.steps=2", "--set", "training.batch_size=2"]
where = ["--images", "source/images", "--labels", "source/labels", "--out", "made"]
what = ["--network", "lane_net", "--label-space", "cityscapes19", "--input-size", "96x48"]
command("train", *where, *what, *training)
how = ["--method", "sharp", "--set", "sharp.power=3", "--gate", "off", *training]
found["cli"] = json.loads(command("adapt", "made", "target/images", "--out", "a", "--json", *how))

from third_party.sharp import SharpConfig

made = roadshift.adapt_bundle(
    "made", "target/images", out="b", method="sharp", settings=SharpConfig(power=3), gate=False,
    training=roadshift.TrainingConfig(steps=2, batch_size=2),
)
found["network"] = made.manifest.network.name
found["settings"] = made.manifest.provenance.configuration["method_config"]
roadshift.export_bundle(made)
found["run"] = json.loads(command("run", "b", "drive.roadlog", "--out", "seen", "--json"))
adapted = ["adapt", "made", "drive.roadlog", "--out", "c", "--json", *how]
found["logged"] = json.loads(command(*adapted))
found["engine"] = roadshift.evaluate("b", "source/images", "source/labels").engine
found["night"] = roadshift.evaluate("b", "source/images", "source/labels", backend="night").record()
live = ["run", "b", "testcard:96x48", "--max-frames", "5", "--json", "--backend", "night"]
found["live"] = json.loads(command(*live))
benched = ["bench", "b", "--queries", "2", "--warmup", "0", "--rounds", "1", "--device", "cpu"]
found["bench"] = json.loads(command(*benched, "--backends", "night", "--json"))
print(json.dumps(found))
"""


def test_the_command_line_and_the_functions_know_what_a_package_adds(tmp_path: Path) -> None:
    for name, domain in (("source", "daylight"), ("target", "dusk")):
        render_dataset(tmp_path / name, domain, 4, seed=3, width=96, height=48)
    images = np.random.default_rng(0).integers(0, 256, (6, 48, 96, 3), np.uint8)
    with (tmp_path / "drive.roadlog").open("wb") as file:
        np.savez(file, images=images, timestamp_ns=40_000_000 * np.arange(6))
    paths = os.pathsep.join([str(SITE), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    (method,) = [row for row in found["methods"] if row["name"] == "sharp"]
    assert method["source"] == "a third party"
    (network,) = [row for row in found["networks"] if row["name"] == "lane_net"]
    weights = 3 * 6 * 9 + 6 + 2 * 6 + 6 * 19 + 19  # convolution, batch norm, classifier
    assert network["parameters"] == weights
    assert (found["cli"]["method"], found["cli"]["outcome"]["steps"]) == ("sharp", 2)
    assert (found["network"], found["settings"]) == ("lane_net", {"power": 3.0})
    assert found["engine"] == "onnxruntime"
    assert (found["run"]["frames"], found["run"]["frames_skipped"]) == (6, 0)
    labels = sorted(path.name for path in (tmp_path / "seen" / "labels").iterdir())
    assert labels == [f"drive_{i:06d}.png" for i in range(6)]
    assert found["night"]["engine"] == "night"
    assert {name for name, iou in found["night"]["iou"].items() if iou} <= {"road", "sky"}
    assert (found["live"]["frames_read"], found["live"]["ended_by"]) == (5, "max_frames")
    assert [(row["backend"], row["error"]) for row in found["bench"]] == [("night", None)]
    assert found["logged"]["outcome"]["steps"] == 2
