"""The command line in this process, and one small source model, adapted and exported through it."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_cases import write_bundle
from roadshift import cli
from roadshift.adapt.networks import build_network
from roadshift.runtime.bundle import InputSpec, NetworkSpec
from roadshift.runtime.labels import label_space
from roadshift.scenes import render_dataset


@dataclass(frozen=True)
class Done:
    """The end of a command: its exit code and what it left on the terminal."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout; fails where there is more or less."""
        return json.loads(self.out)


Command = Callable[..., Done]


@dataclass(frozen=True)
class World:
    """Scenes and the bundles made from them, with what the commands that made them said."""

    day: Path  # images/ and labels/ of four daylight scenes, 96x64
    dusk: Path
    source: Path  # a bundle of fast_scnn, trained for three steps
    adapted: Path  # adapted to dusk for two steps, and exported
    train: Done
    adapt: Done
    export: Done

    @property
    def labelled(self) -> tuple[str, str, str, str]:
        """The dusk frames as arguments of ``eval``."""
        return ("--images", str(self.dusk / "images"), "--labels", str(self.dusk / "labels"))


def run_command(*arguments: object) -> Done:
    """``roadshift ARGUMENTS`` in this process; an exception would be a traceback and passes."""
    out, err = io.StringIO(), io.StringIO()
    before, interrupt = sys.argv, signal.getsignal(signal.SIGINT)
    sys.argv = ["roadshift", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stopped:
            cli.main()
    finally:
        sys.argv = before
        signal.signal(signal.SIGINT, interrupt)
    code = stopped.value.code
    return Done(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def command() -> Command:
    """``command("eval", bundle, ...)`` runs it and gives its exit code, stdout and stderr."""
    return run_command


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The loop, once for all processes of the suite: train, adapt, export."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root, said = shared / "world", shared / "world.json"
    root.mkdir(exist_ok=True)
    with (shared / "world.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            said.write_text(json.dumps([asdict(done) for done in made_world(root)]))
    train, adapt, export = (Done(**done) for done in json.loads(said.read_text()))
    return World(
        root / "day", root / "dusk", root / "source", root / "adapted", train, adapt, export
    )


def made_world(root: Path) -> tuple[Done, Done, Done]:
    """Scenes, a source model and an adapted one with its graph below ``root``."""
    render_dataset(root / "day", "daylight", 4, seed=1, width=96, height=64)
    render_dataset(root / "dusk", "dusk", 4, seed=100, width=96, height=64)
    train = run_command(
        "train",
        *("--images", root / "day/images", "--labels", root / "day/labels"),
        *("--label-space", "cityscapes19", "--network", "fast_scnn", "--input-size", "96x64"),
        *("--set", "training.steps=3", "--set", "training.batch_size=2"),
        *("--out", root / "source"),
    )
    adapt = run_command(
        *("adapt", root / "source", root / "dusk/images", "--out", root / "adapted"),
        *("--set", "training.steps=3", "--set", "training.batch_size=2", "--gate", "off", "--json"),
    )
    export = run_command("export", root / "adapted", "--json")
    assert (train.code, adapt.code, export.code) == (0, 0, 0), (train, adapt, export)
    return train, adapt, export


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A model of a user's own network, untrained, which is exported in a tenth of the time.

    What loads its network is given ``--allow-network tiny_network``.
    """
    torch.manual_seed(0)
    space, spec = label_space("cityscapes19"), NetworkSpec(name="tiny_network:build")
    network = build_network(spec.name, space.num_classes)
    size = InputSpec(width=96, height=64, mean=(110, 115, 120), std=(60, 58, 57))
    path = tmp_path / "small"
    return write_bundle(path, network, network=spec, label_space=space, input=size).path


@pytest.fixture
def refused(command: Command) -> Callable[..., str]:
    """``refused("eval", ..., says=["a", "b"])``: it fails with one sentence that says all of that.

    Gives the sentence.
    """

    def check(*arguments: object, says: list[str]) -> str:
        done = command(*arguments)
        errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert done.code == 1, done
        assert len(errors) == 1, done.err
        assert done.err.endswith(f"{errors[0]}\n")
        assert errors[0].endswith(".")
        assert done.out == ""
        for text in says:
            assert text in errors[0]
        return errors[0]

    return check


def listing(folder: Path) -> dict[str, bytes | None]:
    """Every path below ``folder``, hidden ones too, with the content of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def unchanged(tmp_path: Path) -> Callable[..., Any]:
    """``with unchanged():`` no path in ``tmp_path``, or a folder given, appears or changes."""

    @contextmanager
    def watch(folder: Path = tmp_path) -> Iterator[None]:
        before = listing(folder)
        yield
        after = listing(folder)
        assert sorted(after) == sorted(before)
        assert after == before

    return watch
