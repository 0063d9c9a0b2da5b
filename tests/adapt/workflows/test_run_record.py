"""Records of runs: a resumed run is held to its own and goes on as it began, or has finished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from roadshift.adapt import RunOptions, adapt_bundle, train_bundle
from roadshift.adapt.data import dataset
from roadshift.adapt.data.input_hashes import hash_of
from roadshift.adapt.run.checksums import read_json_with_checksum, write_json_with_checksum
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.run.workspace import CHECKPOINT, RECORD
from roadshift.cli import app
from roadshift.runtime.arguments import ProgressUpdate
from roadshift.runtime.bundle import Bundle, open_bundle
from roadshift.runtime.errors import (
    ConfigError,
    NetworkError,
    OutputError,
    RunInterrupted,
    TrainingError,
)
from run_cases import adapted, assert_same, run_options
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

pytestmark = pytest.mark.usefixtures("one_thread")
Settings = Callable[..., RunConfig]
Run = Callable[..., dict[str, Tensor]]


@pytest.fixture
def frames(frames_dir: Path, tmp_path: Path) -> Path:
    """A copy of the frames, which a test may change."""
    return Path(shutil.copytree(frames_dir, tmp_path / "frames"))


@pytest.fixture
def run(source: Bundle, frames: Path, tmp_path: Path, settings: Settings) -> Run:
    """``run(out="out", config=settings(), **options)``: the weights of a run over `frames`."""

    def run(out: str = "out", config: RunConfig | None = None, **options: Any) -> dict[str, Tensor]:
        return adapted(source, frames, config or settings(), tmp_path / out, **options)

    return run


@pytest.fixture
def stop(run: Run, after_one_step: dict[str, Any]) -> Callable[..., None]:
    """``stop(config=settings())``: a run into ``out``, stopped after its first step."""

    def stop(config: RunConfig | None = None, **options: Any) -> None:
        with pytest.raises(RunInterrupted):
            run(config=config, **(options or after_one_step))

    return stop


def change_in_place(path: Path) -> None:
    """Another picture under the same name, with the size and time of change that it had."""
    before = path.stat()
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert cv2.imwrite(str(path), np.asarray(image)[::-1].copy())
    content = path.read_bytes()
    path.write_bytes(content[: before.st_size] + bytes(max(0, before.st_size - len(content))))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- threads, machine, versions ------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 2), (3, 1)])
def test_a_run_goes_on_with_as_many_threads_as_it_began_with(
    first: int, second: int, run: Run, stop: Callable[..., None]
) -> None:
    seen: list[int] = []
    notes: list[str] = []
    torch.set_num_threads(first)  # `one_thread` sets it back
    whole = run("whole")
    stop()
    torch.set_num_threads(second)
    resumed = run(
        resume=True, note=notes.append, report=lambda _: seen.append(torch.get_num_threads())
    )
    assert set(seen) == {first}
    assert torch.get_num_threads() == second
    assert any(f"began with {first} thread" in note for note in notes)
    assert_same(resumed, whole)


def test_another_machine_or_version_is_said(
    run: Run, stop: Callable[..., None], tmp_path: Path
) -> None:
    stop()
    record = read_json_with_checksum(tmp_path / "out.run" / RECORD)
    record["machine"] = "CPU abacus"
    record["versions"]["torch"] = "0.1"
    write_json_with_checksum(tmp_path / "out.run" / RECORD, record)
    notes: list[str] = []
    run(resume=True, note=notes.append)
    (note,) = (note for note in notes if "began elsewhere" in note)
    assert "on CPU abacus, now CPU" in note
    assert "torch 0.1, now" in note


def test_a_run_that_began_under_old_names_of_settings_goes_on_under_the_new(
    run: Run, stop: Callable[..., None], tmp_path: Path, settings: Settings
) -> None:
    began = settings("iapc.memory_smoothing=0.003", "blend=0.25", "losses=tiled")
    now = settings("iapc.memory_decay=0.997", "weight_interpolation=0.25", "loss_backend=tiled")
    whole = run("whole", now)
    stop(began)
    renamed = {"weight_interpolation": "blend", "loss_backend": "losses"}
    document = {renamed.get(k, k): v for k, v in now.model_dump(mode="json").items()}
    own = {"memory_decay": ("memory_smoothing", 0.003)}
    document["method_config"] = dict(
        own.get(name, (name, value)) for name, value in now.method_config.items()
    )
    kept = read_json_with_checksum(tmp_path / "out.run" / RECORD)["parts"]["settings"]
    assert kept == hash_of(document)  # as an earlier version wrote it
    assert_same(run(config=now, resume=True), whole)


def test_a_run_that_goes_on_as_it_began_says_nothing_of_it(
    run: Run, stop: Callable[..., None]
) -> None:
    stop()
    notes: list[str] = []
    run(resume=True, note=notes.append)
    assert not any("began" in note for note in notes)


# --- the content of files ------------------------------------------------------------------------


@pytest.fixture
def train(frames: Path, tmp_path: Path, settings: Settings, source: Bundle) -> Run:
    """Trains the tiny network on ``frames`` and labels beside them; ``train.labels`` is theirs."""
    labels = tmp_path / "labels"
    labels.mkdir()
    rng = np.random.default_rng(5)
    for path in frames.iterdir():
        blocks = rng.integers(0, 4, (4, 6)).repeat(8, axis=0).repeat(8, axis=1)
        assert cv2.imwrite(str(labels / path.name), blocks.astype(np.uint8))
    initial = tmp_path / "initial.safetensors"
    save_file(load_file(source.path / "model.safetensors"), initial)
    config = settings("training.steps=4", "training.warmup_steps=2", method="supervised")

    def run(out: str = "out", config: RunConfig = config, **options: Any) -> dict[str, Tensor]:
        bundle = train_bundle(
            frames,
            labels,
            source.label_space,
            source.manifest.network,
            source.manifest.input,
            config,
            run_options(tmp_path / out, **options),
            initial=initial,
        )
        return load_file(bundle.path / "model.safetensors")

    return run


@pytest.mark.parametrize("what", ["frames", "labels", "initial.safetensors"])
def test_training_refuses_files_whose_content_changed_under_their_names(
    what: str,
    train: Run,
    tmp_path: Path,
    after_one_step: dict[str, Any],
) -> None:
    whole = train("whole")
    with pytest.raises(RunInterrupted):
        train(**after_one_step)
    path = tmp_path / what
    path = sorted(path.iterdir())[2] if path.is_dir() else path
    before, run = path.read_bytes(), contents(tmp_path / "out.run")
    if path.suffix == ".png":
        change_in_place(path)
    else:
        path.write_bytes(before[:-4] + bytes(4))
    with pytest.raises(TrainingError, match=r"other frames.*content of its files.*resume=True"):
        train(resume=True)
    assert contents(tmp_path / "out.run") == run
    path.write_bytes(before)
    assert_same(train(resume=True), whole)


def test_adapting_goes_on_with_the_frames_that_it_decoded_and_says_so(
    run: Run, stop: Callable[..., None], frames: Path
) -> None:
    whole = run("whole")
    stop()
    path = sorted(frames.iterdir())[0]
    path.write_bytes(path.read_bytes() + b"more")
    notes: list[str] = []
    assert_same(run(resume=True, note=notes.append), whole)
    assert any("files were changed since" in note for note in notes)


def test_frames_that_are_decoded_when_drawn_may_not_change(
    run: Run,
    stop: Callable[..., None],
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dataset, "CACHE_LIMIT_BYTES", 0)
    whole = run("whole")
    stop()
    assert not (tmp_path / "out.run" / "frames.rgb").exists()
    path = sorted(frames.iterdir())[1]
    before = path.read_bytes()
    change_in_place(path)
    with pytest.raises(TrainingError, match="content of its files"):
        run(resume=True)
    path.write_bytes(before)
    assert_same(run(resume=True), whole)


# --- a refused command changes nothing -----------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "change", "part"),
    [
        ("before the first step", {"max_frames": 3}, "frames"),
        ("after a step", {"max_frames": 3}, "frames"),
        ("after a step", {"frames": "other"}, "frames"),
        ("after a step", {"assignments": ("training.frame_size=[32,32]",)}, "settings"),
        ("before the first step", {"assignments": ("seed=7",)}, "settings"),
        ("after a step", {"method": "bn_stats"}, "settings"),
        ("after a step", {"source": True}, "source model"),
    ],
    ids=str,
)
def test_a_refused_command_changes_no_byte_of_the_run(
    when: str,
    change: dict[str, Any],
    part: str,
    run: Run,
    stop: Callable[..., None],
    source: Bundle,
    frames: Path,
    tmp_path: Path,
    settings: Settings,
) -> None:
    options: dict[str, Any] = {}
    if when == "before the first step":
        options = {"stop_requested": lambda: (tmp_path / "out.run" / CHECKPOINT).exists()}
    config = settings("iapc.pseudo_labels=offline")
    whole = run("whole", config)
    stop(config, **options)
    before = contents(tmp_path / "out.run")
    assert before.keys() >= {CHECKPOINT, "frames.rgb", RECORD}
    shutil.copytree(frames, tmp_path / "other")
    start = source
    if "source" in change:
        start = adapt_bundle(source, [frames], settings("seed=9"), RunOptions(tmp_path / "start"))
    with pytest.raises(TrainingError, match=rf"{part}: not as it began.*resume=True"):
        adapt_bundle(
            start,
            [tmp_path / change.get("frames", "frames")],
            settings(
                *(() if "method" in change else ("iapc.pseudo_labels=offline",)),
                *change.get("assignments", ()),
                method=change.get("method", "iapc"),
            ),
            RunOptions(tmp_path / "out", device="cpu", resume=True),
            max_frames=change.get("max_frames"),
        )
    assert contents(tmp_path / "out.run") == before
    assert_same(run(config=config, resume=True), whole)


# --- a run that has finished ---------------------------------------------------------------------


def test_a_finished_run_is_done_and_stays_as_it_is(run: Run, tmp_path: Path) -> None:
    run()
    before = contents(tmp_path / "out")
    steps: list[ProgressUpdate] = []
    notes: list[str] = []
    for _ in range(2):
        run(resume=True, note=notes.append, report=steps.append)
    assert notes == [f"{tmp_path / 'out'}: this run has finished, nothing is left to do"] * 2
    assert steps == []
    assert contents(tmp_path / "out") == before
    with pytest.raises(OutputError, match="already exists"):
        run()  # without --resume


def test_a_finished_training_is_done(train: Run, tmp_path: Path, settings: Settings) -> None:
    whole = train()
    notes: list[str] = []
    assert_same(train(resume=True, note=notes.append), whole)
    assert any("has finished" in note for note in notes)
    with pytest.raises(OutputError, match="already exists"):
        train(resume=True, config=settings("seed=3", method="supervised"))
    change_in_place(sorted((tmp_path / "labels").iterdir())[0])
    with pytest.raises(OutputError, match="already exists"):
        train(resume=True)


@pytest.mark.parametrize("change", ["setting", "frame", "max frames", "source", "foreign", "gate"])
def test_the_bundle_of_another_run_is_not_taken_for_a_finished_one(
    change: str, source: Bundle, frames: Path, tmp_path: Path, settings: Settings
) -> None:
    adapt_bundle(source, [frames], settings(), RunOptions(tmp_path / "out", device="cpu"))
    start, config, more = source, settings(), dict[str, Any]()
    if change == "setting":
        config = settings("iapc.weight_pe=0.4")
    elif change == "frame":
        change_in_place(sorted(frames.iterdir())[0])
    elif change == "max frames":
        more = {"max_frames": 4}
    elif change == "source":
        start = adapt_bundle(source, [frames], settings("seed=9"), RunOptions(tmp_path / "start"))
    elif change == "gate":
        more = {"gated": True}
    else:
        (tmp_path / "out").rename(tmp_path / "aside")
        shutil.copytree(source.path, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(OutputError, match="already exists"):
        adapt_bundle(start, [frames], config, run_options(tmp_path / "out", resume=True), **more)
    assert contents(tmp_path / "out") == before


def test_a_finished_bundle_that_is_damaged_is_not_done(run: Run, tmp_path: Path) -> None:
    whole = {name: tensor.clone() for name, tensor in run().items()}
    weights = tmp_path / "out" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(OutputError, match="already exists"):
        run(resume=True)
    assert_same(run(overwrite=True, resume=True), whole)


def test_on_the_command_line_a_finished_run_exits_with_0(
    source: Bundle, frames: Path, tmp_path: Path
) -> None:
    command = ["adapt", str(source.path), str(frames), "--out", str(tmp_path / "out")]
    command += ["--method", "bn_stats", "--gate", "off", "--device", "cpu"]
    command += ["--allow-network", "tiny_network"]
    for _ in range(2):
        ran = CliRunner().invoke(app, [*command, "--resume"])
        assert ran.exit_code == 0, ran.output
    assert "has finished, nothing is left to do" in ran.stderr
    made = open_bundle(tmp_path / "out").manifest.provenance.fingerprint
    assert made is not None
    assert len(made) == 64


def test_a_start_file_that_is_missing_is_a_sentence(train: Run, tmp_path: Path) -> None:
    (tmp_path / "initial.safetensors").unlink()
    with pytest.raises((NetworkError, ConfigError, OSError)) as caught:
        train()
    assert "initial.safetensors" in str(caught.value)
    assert not isinstance(caught.value, OSError)
