"""A model on its way into a vehicle, by the commands and by the scripts for updaters."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fleets import HEALTHY, Fleet
from roadshift.runtime.bundle.packed import pack
from roadshift.runtime.slots import commit, install
from roadshift.runtime.slots.changes import end_trial

ROOT = Path(__file__).parents[2]


@pytest.fixture
def car(tmp_path: Path) -> Fleet:
    frames = tmp_path / "frames"
    frames.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        image = rng.integers(0, 256, (4, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        cv2.imwrite(str(frames / f"{number}.png"), image)
    return Fleet(tmp_path)


@pytest.fixture
def roadshift(command: Callable[..., Any]) -> Callable[..., str]:
    """``roadshift(..., code=0)``: what a command prints, or of one that fails, what it says."""

    def run(*arguments: object, code: int = 0) -> str:
        done = command(*arguments)
        assert done.code == code, done.err
        said: str = done.err if code else done.out
        return said

    return run


Roadshift = Callable[..., str]


@pytest.mark.slow
def test_from_a_signature_to_a_committed_model(car: Fleet, roadshift: Roadshift) -> None:
    bundle = car.model(2)
    shutil.rmtree(bundle.path / "signatures")
    slots, trust = ("--slots", car.store.path), ("--trust", car.trust.path)
    assert "is not signed" in roadshift("verify", bundle.path, *trust, code=8)
    roadshift("sign", bundle.path, "--key", car.folder / "maker.key", "--version", 7)
    assert json.loads(roadshift("verify", bundle.path, *trust, "--json"))["version"] == 7
    packed = car.folder / "m.roadshift"
    told = json.loads(roadshift("pack", bundle.path, "--out", packed, "--json"))
    assert told["sha256"] == hashlib.sha256(packed.read_bytes()).hexdigest()
    roadshift("verify", packed, *trust)
    damaged = car.folder / "d.roadshift"
    damaged.write_bytes(packed.read_bytes() + b"x")
    assert "damaged" in roadshift("slot", "install", damaged, *slots, *trust, code=8)
    roadshift("slot", "install", car.folder / "none", *slots, *trust, code=1)
    roadshift("slot", "install", packed, *slots, *trust, "--plan", "fp32")
    assert "use auto, none, fp32" in roadshift("slot", "build", *slots, *trust, "--plan=x", code=1)
    roadshift("slot", "try", *slots, *trust, "--plan", "none")
    out = car.folder / "out"
    roadshift("run", *slots, *trust, car.folder / "frames", "--out", out)
    assert len(list((out / "labels").iterdir())) == 4
    state = json.loads(roadshift("slot", "commit", *slots, *trust, car.folder / "frames", "--json"))
    assert (state["active"], state["floor"]) == ("a", 7)
    roadshift("slot", "clock", *slots, "--reason", "it said 2100")
    events = [one["event"] for one in json.loads(roadshift("slot", "audit", *slots, "--json"))]
    assert events == [
        "created",
        "refused",
        "refused",
        "installed",
        "tried",
        "started",
        "committed",
        "clock set",
    ]
    (last,) = json.loads(roadshift("slot", "audit", *slots, "--last", 1, "--json"))
    assert last["number"] == 7
    wait = ("slot", "wait", *slots, "--model")
    roadshift(*wait, packed)
    assert "is in no slot" in roadshift(*wait, car.model(3).path, code=1)


@pytest.mark.slow
def test_a_key_that_expires_by_an_update(car: Fleet, roadshift: Roadshift) -> None:
    bundle, maker = car.model(2), car.key.public.id
    trust, update = car.trust.path, car.folder / "update.json"
    change = ("trust", "change", trust, "--key", car.folder / "maker.key", "--out", update)
    for wrong, code in (("=365d", 8), (f"{maker[:12]}=soon", 1), (maker, 2)):
        roadshift(*change, "--expire-key", wrong, code=code)
    roadshift(*change, "--expire-key", f"{maker[:12]}=365d")
    assert "counts until" in roadshift("trust", "update", trust, update)
    expires = json.loads(roadshift("trust", "show", trust, "--json"))["keys"][maker]["expires"]
    assert (datetime.fromisoformat(expires[:-1]) - datetime.now()).days in (363, 364, 365)
    found = json.loads(roadshift("verify", bundle.path, "--trust", trust, "--json"))
    assert found["expires"] == expires.replace("Z", "+00:00")
    roadshift(*change, "--expire-key", f"{maker}=never")
    assert "until" not in roadshift("trust", "update", trust, update)
    create = ("trust", "create", car.folder / "new", "--maker", car.folder / "maker.key.pub")
    assert "counts until" in roadshift(*create, "--expire-key", f"{maker[:12]}=30")


@pytest.mark.slow
def test_run_refuses_what_nobody_who_is_trusted_signed(car: Fleet, roadshift: Roadshift) -> None:
    bundle, frames = car.model(2), car.folder / "frames"
    trust = ("--trust", car.trust.path)
    roadshift("run", bundle.path, frames, *trust)
    shutil.rmtree(bundle.path / "signatures")
    assert "is not signed" in roadshift("run", bundle.path, frames, *trust, code=8)
    slots = ("--slots", car.store.path, *trust)
    assert "give frames alone" in roadshift("run", *slots, bundle.path, frames, code=2)
    assert "not with --slots" in roadshift("run", *slots, frames, "--artefact", "x", code=2)


Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def script(car: Fleet, tmp_path: Path) -> Script:
    """Calls a script for updaters with arguments, and with more of the environment."""
    car.running(1)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    program = bin_folder / "roadshift"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m roadshift.cli "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "ROADSHIFT_SLOTS": str(car.store.path),
        "ROADSHIFT_TRUST": str(car.trust.path),
        "ROADSHIFT_WAIT": "1s",
    }

    def run(name: str, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "configs" / "updaters" / name, *map(str, arguments)],
            env={**environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.slow
def test_an_updater_walks_through_its_states(
    car: Fleet, roadshift: Roadshift, script: Script, tmp_path: Path
) -> None:
    """The states of Mender's update modules in the order that its documentation gives."""
    tree = tmp_path / "tree"
    (tree / "files").mkdir(parents=True)

    assert script("mender-roadshift", "SupportsRollback", tree).stdout == "Yes\n"
    assert script("mender-roadshift", "NeedsArtifactReboot", tree).stdout == "No\n"
    assert script("mender-roadshift", "ArtifactInstall", tree).returncode == 1
    roadshift("pack", car.model(2).path, "--out", tree / "files" / "m.roadshift")
    done = script("mender-roadshift", "ArtifactInstall", tree)
    assert done.returncode == 0, done.stderr
    assert car.store.state().trial is not None
    undecided = script("mender-roadshift", "ArtifactCommit", tree)
    assert "still on trial" in undecided.stderr
    theirs = pack(car.model(4), tmp_path / "theirs")
    roadshift("slot", "rollback", "--slots", car.store.path, "--trial", "--model", theirs)
    assert car.store.state().trial is not None, "the trial of another model goes on"
    assert script("mender-roadshift", "ArtifactRollback", tree).returncode == 0
    assert car.store.state().slots["b"].reason == "Mender rolled back"
    assert script("mender-roadshift", "ArtifactRollback", tree).returncode == 0  # once is enough
    packed = tree / "files" / "m.roadshift"
    roadshift("pack", car.model(3).path, "--out", packed)
    done = script("rauc-hook", "slot-install", RAUC_IMAGE_NAME=str(packed))
    assert done.returncode == 0, done.stderr
    assert car.store.state().trial is not None
    assert script("rauc-hook", "slot-post-install").returncode == 1


@pytest.mark.slow
def test_an_updater_begins_anew_after_a_power_cut(
    car: Fleet, script: Script, tmp_path: Path
) -> None:
    """Mender rolls back and installs once more, on its server's word; RAUC installs once more."""
    tree = tmp_path / "tree"
    (tree / "files").mkdir(parents=True)
    bundle = car.model(2)
    packed = pack(bundle, tree / "files" / "m.roadshift")

    def mender(state: str) -> None:
        done = script("mender-roadshift", state, tree)
        assert done.returncode == 0, done.stderr

    def rauc() -> None:
        done = script("rauc-hook", "slot-install", RAUC_IMAGE_NAME=str(packed))
        assert done.returncode == 0, done.stderr

    def tried() -> str | None:
        state = car.store.state()
        return state.slots[state.trial.slot].hash if state.trial is not None else None

    install(car.store, packed, car.trust)  # and the power goes before it is tried
    mender("ArtifactRollback")
    mender("ArtifactInstall")
    assert tried() == bundle.hash
    mender("ArtifactRollback")  # the power went in its trial
    mender("ArtifactInstall")
    assert tried() == bundle.hash
    end_trial(car.store, "")
    install(car.store, packed, car.trust)
    rauc()
    assert tried() == bundle.hash
    rauc()  # the power went in its trial, which goes on
    assert tried() == bundle.hash
    commit(car.store, HEALTHY)  # and the power goes before the updater knows
    before = car.store.state()
    rauc()
    mender("ArtifactRollback")
    mender("ArtifactInstall")
    mender("ArtifactCommit")
    assert car.store.state() == before
    assert (before.active, before.slots["b"].hash) == ("b", bundle.hash)
