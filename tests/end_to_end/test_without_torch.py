"""Commands of the car work where torch is not installed, and the rest says what to install."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Runs commands one after the other in a process that finds neither torch nor onnx.
DRIVER = """
import contextlib, io, json, sys
missing = ("torch", "onnx", "onnxscript", "safetensors.torch")
sys.modules.update(dict.fromkeys(missing))
from roadshift import cli
done = []
for arguments in json.load(sys.stdin):
    sys.argv = ["roadshift", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as stopped:
            code = stopped.code
    done.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
blocked = all(sys.modules[name] is None for name in missing)
rooms = [n for n in sys.modules if n.startswith(("roadshift.adapt.", "roadshift.export."))]
print(json.dumps({"done": done, "blocked": blocked, "rooms": rooms}))
"""


def run_without_torch(*commands: list[str], cwd: Path) -> dict[str, Any]:
    process = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert process.returncode == 0, process.stderr
    said: dict[str, Any] = json.loads(process.stdout)
    assert said["blocked"]
    return said


@pytest.fixture(scope="module")
def in_the_car(world: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every command of the base install on the exported bundle, by name."""
    folder = tmp_path_factory.mktemp("car")
    bundle, frames = str(world.adapted), str(world.dusk / "images")
    commands = {
        "--help": ["--help"],
        "eval": ["eval", bundle, *world.labelled, "--json"],
        "run": ["run", bundle, frames, "--out", "out", "--overlay", "--json"],
        "video": ["run", bundle, frames, "--out", "clip.mp4", "--json"],
        "bench": ["bench", bundle, "--queries", "2", "--warmup", "0", "--json"],
        "info": ["info", bundle, "--json"],
        "doctor": ["doctor", "--json"],
        "label-spaces": ["label-spaces", "--json"],
    }
    said = run_without_torch(*commands.values(), cwd=folder)
    assert said["rooms"] == []  # nothing that learns was even looked at
    assert len(list((folder / "out/labels").iterdir())) == 4
    assert (folder / "clip.mp4").is_file()
    return dict(zip(commands, said["done"], strict=True))


def test_every_command_of_the_car_works_on_an_exported_bundle(
    in_the_car: dict[str, dict[str, Any]],
) -> None:
    assert {name: done["code"] for name, done in in_the_car.items()} == dict.fromkeys(in_the_car, 0)


def test_eval_measures_what_it_measures_with_torch_installed(
    world: Any, command: Any, in_the_car: dict[str, dict[str, Any]]
) -> None:
    assert (
        json.loads(in_the_car["eval"]["out"])
        == command("eval", world.adapted, *world.labelled, "--json").json
    )


def test_run_and_bench_use_onnx_runtime(in_the_car: dict[str, dict[str, Any]]) -> None:
    assert json.loads(in_the_car["run"]["out"])["engine"]["backend"] == "onnxruntime"
    row, *left_out = json.loads(in_the_car["bench"]["out"])
    assert (row["backend"], row["label_agreement"]) == ("onnxruntime", 100.0)
    reasons = {(row["backend"], row["device"]): row["error"] for row in left_out}
    assert "torch is not installed; pip install 'roadshift[adapt]'" in reasons["torch", "cpu"]


def test_doctor_says_how_to_get_torch(in_the_car: dict[str, dict[str, Any]]) -> None:
    (torch,) = (c for c in json.loads(in_the_car["doctor"]["out"]) if c["check"] == "torch")
    assert (torch["ok"], torch["found"]) == (None, "not installed")
    assert "pip install 'roadshift[adapt]'" in torch["advice"]


def test_what_needs_torch_names_the_extra_in_one_sentence(world: Any, tmp_path: Path) -> None:
    images, labels = str(world.day / "images"), str(world.day / "labels")
    bundle = str(world.adapted)
    space, network = ("--label-space", "cityscapes19"), ("--network", "fast_scnn")
    labelled = ["--images", images, "--labels", labels]
    commands = {
        "demo": ["demo", "--out", "new"],
        "train": ["train", *labelled, *space, *network, "--out", "new"],
        "adapt": ["adapt", bundle, images, "--out", "new"],
        "judge": ["judge", str(world.source), bundle, images],
        "compare": ["compare", bundle, images, *labelled, "--out", "new"],
        "explain": ["explain", bundle, images, "--out", "new"],
        "export": ["export", bundle],
        "import": ["import", f"{bundle}/model.safetensors", *space, *network, "--out", "new"],
        "networks": ["networks"],
        "methods": ["methods"],
    }
    said = run_without_torch(*commands.values(), cwd=tmp_path)
    for name, done in zip(commands, said["done"], strict=True):
        assert done["code"] == 1
        assert done["out"] == ""
        assert done["err"] == (
            f"error: roadshift {name} needs torch: pip install 'roadshift[adapt]'.\n"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_was_not_exported_says_how_to_run_it(world: Any, tmp_path: Path) -> None:
    commands = [
        ["eval", str(world.source), *world.labelled],
        ["bench", str(world.source)],
        ["run", str(world.source), str(world.dusk / "images"), "--out", "out"],
        ["eval", str(world.adapted), *world.labelled, "--backend", "torch"],
    ]
    *unexported, torch = run_without_torch(*commands, cwd=tmp_path)["done"]
    for done in unexported:
        assert done["code"] == 1
        assert done["out"] == ""
        assert done["err"].count("error: ") == done["err"].count("\n") == 1
        assert f"`roadshift export {world.source} --to onnx`" in done["err"]
        assert "pip install 'roadshift[adapt]'" in done["err"]
    assert torch["code"] == 1
    assert torch["err"] == "error: torch is not installed; pip install 'roadshift[adapt]'.\n"
    assert list(tmp_path.iterdir()) == []
