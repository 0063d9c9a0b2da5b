"""An installed package adds a method and a network: one file each, and an entry point each.

The package is a folder with metadata on Python's path, as pip leaves one, and a process that knows
of it by its metadata alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from roadshift.adapt.scenes import render_dataset

METHOD = """
from collections.abc import Sequence

from roadshift import Batch, Context, Method, SegmentationNetwork, Settings, Stage
from torch import Tensor


class SharpConfig(Settings):
    power: float = 2.0


class SharpStage(Stage):
    name = "sharp"

    def __init__(self, settings: SharpConfig) -> None:
        self.power = settings.power

    def begin(self, model: SegmentationNetwork, context: Context) -> None:
        self.model, self.context = model.train(), context

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.model(self.context.normalise(batch.augmented)).logits
        return {"sharp": -logits.softmax(dim=1).pow(self.power).sum(dim=1).mean()}


class Sharp(Method):
    name = "sharp"
    summary = "high powers of the probabilities"
    source = "a third party"
    Config = SharpConfig

    @staticmethod
    def stages(settings: SharpConfig) -> Sequence[Stage]:
        return [SharpStage(settings)]
"""

NETWORK = """
from torch import Tensor, nn


class LaneNet(nn.Module):
    def __init__(self, num_classes: int, width: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=4, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.body(images))
"""

POINTS = """
[roadshift.methods]
sharp = third_party.sharp:Sharp

[roadshift.networks]
lane_net = third_party.lane_net:LaneNet
"""


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
found["engine"] = roadshift.evaluate("b", "source/images", "source/labels").engine
print(json.dumps(found))
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder on Python's path that holds the package and its metadata."""
    site = tmp_path / "site"
    package, info = site / "third_party", site / "third_party-1.0.dist-info"
    for folder in (package, info):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "sharp.py").write_text(METHOD)
    (package / "lane_net.py").write_text(NETWORK)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    return site


def test_the_command_line_and_the_functions_know_what_a_package_adds(
    installed: Path, tmp_path: Path
) -> None:
    for name, domain in (("source", "daylight"), ("target", "dusk")):
        render_dataset(tmp_path / name, domain, 4, seed=3, width=96, height=48)
    paths = os.pathsep.join([str(installed), *filter(None, sys.path)])
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
