"""Commands with streams that fail: a lost result is one sentence, a lost note stops nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broken_streams import BROKEN
from roadshift import cli
from roadshift.export import artefacts
from roadshift.runtime.console.streams import guarded

QUICK = ("--queries", "3", "--warmup", "1", "--rounds", "1", "--backends", "onnxruntime")
BN_ONLY = ("--method", "bn_stats", "--gate", "off", "--set", "statistics_share=0.5")

# What each command is given, and what it makes that must be there whatever becomes of its words.
COMMANDS: dict[str, tuple[Callable[[Any, Path], tuple[object, ...]], str | None]] = {
    "info": (lambda world, _: ("info", world.adapted), None),
    "doctor": (lambda *_: ("doctor",), None),
    "methods": (lambda *_: ("methods",), None),
    "networks": (lambda *_: ("networks", "--json"), None),
    "eval": (lambda world, _: ("eval", world.adapted, *world.labelled), None),
    "judge": (lambda w, _: ("judge", w.source, w.adapted, w.day / "images", "--json"), None),
    "explain": (
        lambda w, out: ("explain", w.source, w.day / "images", "--out", out / "seen"),
        "seen/index.html",
    ),
    "run": (
        lambda world, out: ("run", world.adapted, world.dusk / "images", "--out", out / "maps"),
        "maps/labels",
    ),
    "bench": (
        lambda world, out: ("bench", world.adapted, *QUICK, "--save", out / "base.json"),
        "base.json",
    ),
    "adapt": (
        lambda w, out: ("adapt", w.source, w.dusk / "images", *BN_ONLY, "--out", out / "bn"),
        "bn/manifest.json",
    ),
    "import": (
        lambda world, out: (
            *("import", world.source / "model.safetensors", "--network", "fast_scnn"),
            *("--label-space", "cityscapes19", "--input-size", "96x64", "--out", out / "imported"),
        ),
        "imported/manifest.json",
    ),
    "train": (
        lambda world, out: (
            *("train", "--images", world.day / "images", "--labels", world.day / "labels"),
            *("--label-space", "cityscapes19", "--network", "fast_scnn", "--input-size", "96x64"),
            *("--set", "training.steps=1", "--set", "training.batch_size=2"),
            *("--out", out / "trained"),
        ),
        "trained/manifest.json",
    ),
    "export": (lambda _, out: ("export", out / "bundle"), None),
}


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest) -> Iterator[int]:
    """A descriptor that cannot be written to."""
    descriptor: int = request.param()
    yield descriptor
    os.close(descriptor)


def ended(arguments: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["roadshift", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    code = stopped.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture
def arguments(request: pytest.FixtureRequest, world: Any, tmp_path: Path) -> tuple[object, ...]:
    shutil.copytree(world.source, tmp_path / "bundle")
    return COMMANDS[request.param][0](world, tmp_path)


@pytest.mark.parametrize(("arguments", "made"), [(name, COMMANDS[name][1]) for name in COMMANDS],
                         indirect=["arguments"], ids=list(COMMANDS))  # fmt: skip
def test_a_result_that_cannot_be_printed(
    arguments: tuple[object, ...],
    made: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = {"path": "model.onnx", "format": "onnx", "opset": 20, "precision": "fp32", "bytes": 1}
    compared = {"label_agreement": 100.0, "frames": 1, "compared_on": "scenes"}
    monkeypatch.setattr(  # which takes long, and has tests of its own
        artefacts, "export_bundle", lambda *_, **__: {"artefacts": [{**row, **compared}]}
    )
    descriptor = os.open("/dev/full", os.O_WRONLY)
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdout", guarded(descriptor, None, str, lossy=False))
    monkeypatch.setattr(sys, "stderr", said)
    assert ended(arguments, monkeypatch) == 1
    os.close(descriptor)
    *_, last = said.getvalue().splitlines()
    assert last.startswith("error: Standard output cannot be written (No space left on device);")
    assert said.getvalue().count("error:") == 1
    assert made is None or (tmp_path / made).exists()


@pytest.mark.parametrize("arguments", ["eval", "run", "adapt", "bench"], indirect=True)
def test_notes_that_cannot_be_printed(
    arguments: tuple[object, ...],
    broken: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stderr", guarded(broken, None, str, lossy=True))
    assert ended((*arguments, "--json"), monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)


def test_an_error_that_cannot_be_printed(broken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", guarded(broken, None, str, lossy=True))
    assert ended(("info", "nothing"), monkeypatch) == 1
    assert ended(("info",), monkeypatch) == 2


def test_no_escape_of_a_manifest_reaches_the_terminal(
    world: Any, tmp_path: Path, command: Callable[..., Any]
) -> None:
    """Its text is any that it holds: names of networks and classes, devices, sentences."""
    bundle = tmp_path / "bundle"
    shutil.copytree(world.source, bundle)
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_text())
    nasty = "\x1b]0;owned\x07\x1b[2J\r\n\u202e[red]x"
    manifest["network"]["name"] += nasty
    manifest["label_space"]["name"] += nasty
    manifest["label_space"]["classes"][0] += nasty
    manifest["provenance"].update(method=f"train{nasty}", device=nasty, parent=nasty)
    manifest["measured"] = [{"name": nasty, "value": 1.0, "unit": nasty, "how": nasty}]
    file.write_text(json.dumps(manifest))
    frames = world.dusk / "images"
    for arguments in (
        ("info", bundle),
        ("eval", bundle, *world.labelled, "--backend", "torch"),
        ("adapt", bundle, frames, *BN_ONLY, "--out", tmp_path / "new"),
        ("judge", bundle, world.adapted, frames),
    ):
        done = command(*arguments)
        shown = done.out + done.err
        assert not [c for c in "\x1b\x07\r\u202e" if c in shown], arguments
        assert not any(line.startswith("[red]") for line in shown.splitlines())
    manifest["label_space"]["colours"] = [[nasty]]  # and of what pydantic repeats
    file.write_text(json.dumps(manifest))
    assert "\x1b" not in command("info", bundle).err
