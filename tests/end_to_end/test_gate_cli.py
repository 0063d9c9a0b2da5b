"""`adapt --gate` and `judge` through the command line: exit codes, JSON, tables and notes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from roadshift.adapt.judging import judge
from roadshift.adapt.judging.evidence import Evidence
from roadshift.runtime.bundle import BundleWriter, open_bundle
from roadshift.runtime.verdict import Check, Decision, Verdict
from roadshift.scenes import render_dataset
from safetensors.torch import load_file, save

Command = Callable[..., Any]
CHECK = Check("flip", 0.61, 0.48, -0.16, -0.1, 0.0, False, "Flipped, it contradicts itself more.")


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 20 dusk scenes, of which the gate takes the last five."""
    folder = tmp_path_factory.mktemp("drive")
    render_dataset(folder, "dusk", 20, seed=300, width=96, height=64)
    return folder / "images"


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> Callable[[Decision], None]:
    """``decided("keep")``: every verdict is that."""

    def install(decision: Decision) -> None:
        def decide(evidence: Evidence, _: object, seconds: float) -> Verdict:
            return Verdict(decision, "It contradicts itself.", (CHECK,), evidence.frames, seconds)

        monkeypatch.setattr(judge, "decide", decide)

    return install


@pytest.fixture
def adapt(world: Any, command: Command, drive: Path, tmp_path: Path) -> Command:
    """``adapt("--gate", "warn")`` of the source model, BN statistics alone, to ``tmp_path/new``.

    Their share is given: finding it takes most of such a run, and no verdict here depends on it.
    """

    def run(*words: object, frames: Path = drive, source: Path = world.source) -> Any:
        method = ("--method", "bn_stats", "--set", "statistics_share=0.5")
        return command("adapt", source, frames, *method, "--out", tmp_path / "new", *words)

    return run


@pytest.fixture
def broken(world: Any, tmp_path: Path) -> Path:
    """The adapted bundle with weights that are no numbers."""
    adapted = open_bundle(world.adapted)
    tensors = load_file(adapted.path / "model.safetensors")
    tensors = {n: t * torch.nan if t.is_floating_point() else t for n, t in tensors.items()}
    with BundleWriter(tmp_path / "broken") as writer:
        writer.add_bytes("model.safetensors", save(tensors), kind="weights")
        writer.commit(
            network=adapted.manifest.network,
            label_space=adapted.label_space,
            input=adapted.manifest.input,
            provenance=adapted.manifest.provenance,
        )
    return tmp_path / "broken"


def as_process(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "roadshift.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("decision", "code"), [("promote", 0), ("keep", 5), ("ask", 6)])
def test_the_exit_code_of_adapt_is_the_verdict(
    adapt: Command, decided: Any, decision: Decision, code: int, world: Any, tmp_path: Path
) -> None:
    decided(decision)
    before = (world.source / "manifest.json").read_bytes()
    done = adapt("--json")
    assert done.code == code
    said = done.json
    assert (said["frames"], said["verdict"]["frames"]) == (15, 5)
    assert said["verdict"]["decision"] == decision
    assert said["verdict"]["incumbent"] == open_bundle(world.source).hash
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == (decision != "promote")
    assert all(str(tmp_path / "new") in line for line in errors)
    assert all(line.endswith("It contradicts itself.") for line in errors)
    verdict = open_bundle(tmp_path / "new").manifest.verdict
    assert verdict is not None
    assert verdict.decision == decision
    assert (world.source / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_warning_gate_says_the_same_and_exits_with_0(adapt: Command, decided: Any) -> None:
    decided("keep")
    done = adapt("--gate", "warn")
    assert done.code == 0
    lines = done.out.splitlines()
    head = next(line for line in lines if line.startswith("score"))
    assert head.split() == [
        *("score", "incumbent", "candidate", "95", "%", "interval"),
        *("threshold", "passed", "says"),
    ]
    row = lines[lines.index(head) + 1].split()
    assert row[:8] == ["flip", "0.610", "0.480", "-0.160", "to", "-0.100", "0.000", "no"]
    assert "Keep the incumbent: It contradicts itself." in lines
    assert lines[-2].startswith("The verdict holds for conditions like those of its frames alone")
    assert lines[-1].startswith("Judged on 5 frames in ")
    assert lines[-1].endswith(" s that adapting took.")


def test_without_a_gate_there_is_no_verdict(adapt: Command, decided: Any) -> None:
    decided("keep")
    done = adapt("--gate", "off", "--json")
    assert (done.code, done.json["frames"], done.json["verdict"]) == (0, 20, None)


def test_a_refused_bundle_is_used_with_a_note(
    adapt: Command,
    decided: Any,
    command: Command,
    drive: Path,
    world: Any,
    small: Path,
    tmp_path: Path,
) -> None:
    decided("keep")
    own = ("--allow-network", "tiny_network")
    assert adapt("--gate", "warn", *own, source=small).code == 0
    new, said = tmp_path / "new", "this model was refused by its own gate: It contradicts itself."
    for words in (
        ("export", new, *own),
        ("info", new),
        ("run", new, drive, "--out", tmp_path / "labels", "--max-frames", 2),
        ("eval", new, *world.labelled),
        ("bench", new, "--queries", 2, "--warmup", 0, "--rounds", 1, "--backends", "onnxruntime"),
    ):
        done = command(*words)
        assert done.code == 0
        if words[0] == "info":
            assert "Keep the incumbent: It contradicts itself." in done.out
        else:
            assert done.err.count(said) == 1
    exported = open_bundle(new)
    assert exported.artefact(kind="onnx") is not None
    assert exported.manifest.verdict is not None  # exporting keeps it
    document = command("info", new, "--json").json
    assert document["verdict"]["checks"][0]["name"] == "flip"


def test_adapt_with_too_few_frames_to_judge_on_asks(
    adapt: Command, world: Any, tmp_path: Path
) -> None:
    done = adapt("--device", "cpu", frames=world.dusk / "images")
    assert done.code == 6
    last = done.err.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'new'}: its gate cannot tell")
    assert last.endswith(
        "4 frames are too few to set some aside and judge on them; give at least 32."
    )
    assert "Ask a person: 4 frames are too few" in done.out


def test_judge_refuses_weights_that_are_no_numbers(world: Any, broken: Path, drive: Path) -> None:
    """As a process: what a script reads."""
    done = as_process("judge", world.source, broken, drive, "--device", "cpu", "--json")
    assert done.returncode == 5
    verdict = json.loads(done.stdout)
    assert verdict["decision"] == "keep"
    assert "not numbers" in verdict["sentence"]


@pytest.mark.parametrize(("decision", "code"), [("promote", 0), ("keep", 5), ("ask", 6)])
def test_the_exit_code_of_judge_is_the_verdict(
    world: Any, command: Command, drive: Path, decided: Any, decision: Decision, code: int
) -> None:
    decided(decision)
    few = ("--max-frames", 3) if decision != "ask" else ()
    done = command("judge", world.source, world.adapted, drive, *few)
    assert done.code == code
    assert f"Judged on {3 if few else 20} frames in " in done.out
    assert "error" not in done.err
    said = command("judge", world.source, world.adapted, drive, "--max-frames", 4, "--json")
    assert (said.code, said.json["decision"], said.json["frames"]) == (code, decision, 4)


def test_what_judge_cannot_judge(
    world: Any, refused: Callable[..., str], drive: Path, tmp_path: Path
) -> None:
    judged = ("judge", world.source)
    refused(*judged, world.source, drive, says=["is the same model as", "nothing to judge"])
    refused(*judged, tmp_path / "no", drive, says=[str(tmp_path / "no"), "does not exist"])
    refused(*judged, world.adapted, tmp_path / "no", says=[str(tmp_path / "no")])
    refused(*judged, world.adapted, drive, "--device", "tpu", says=["'tpu'", "auto, cpu or cuda"])
    other = tmp_path / "other"
    shutil.copytree(world.adapted, other)
    manifest = (other / "manifest.json").read_text()
    (other / "manifest.json").write_text(manifest.replace('"bicycle"', '"tricycle"'))
    says = [str(other), "label space", "same classes"]
    refused(*judged, other, drive, says=says)


def test_a_gate_that_cannot_be(
    world: Any, refused: Callable[..., str], drive: Path, tmp_path: Path
) -> None:
    adapt = ("adapt", world.source, drive, "--out", tmp_path / "new")
    refused(*adapt, "--gate", "shut", says=["--gate 'shut'", "refuse, warn, off"])
    black_box = ("--method", "atp_black_box", "--student", "fast_scnn", "--gate", "refuse")
    refused(*adapt, *black_box, says=["--gate refuse", "atp_black_box", "leave the option out"])
    over = ("adapt", world.source, drive, "--out", world.source, "--overwrite")
    refused(*over, says=["is the incumbent itself", "give another --out"])
