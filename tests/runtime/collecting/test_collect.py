"""From a source to a folder that adapt takes; kills; the command."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import threading
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from fake_engines import Threshold
from night_scenes import night_scene
from processes import python_output
from roadshift.runtime.collecting.collect import collect_frames, collection_status
from roadshift.runtime.collecting.cpu_share import step_back
from roadshift.runtime.collecting.frame_files import read_frame_file
from roadshift.runtime.collecting.store import read_store
from roadshift.runtime.errors import ConfigError, OutputError
from roadshift.runtime.frames import open_frames
from roadshift.runtime.frames.images import write_image
from roadshift.runtime.frames.live import LiveSource
from roadshift.runtime.frames.preprocess import fit_frame
from roadshift.runtime.pipeline.runner import POLL_S

LOAD = Path(__file__).parents[3] / "benchmarks" / "collecting_load.py"
BUDGET = 3_000_000


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Six places, each three times."""
    folder = tmp_path / "drive"
    folder.mkdir()
    for number in range(18):
        image = night_scene(number // 3)
        write_image(folder / f"{number:03d}.png", image)
    return folder


def test_a_folder_is_collected_with_the_labels_of_an_engine(drive: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    seen: list[tuple[int, int]] = []
    engine = Threshold()
    with engine:
        found = collect_frames(
            open_frames(drive),
            out,
            BUDGET,
            keep_free=0.0,
            engine=engine,
            report=lambda *now: seen.append(now),
        )
    counted = {key: found[key] for key in ("frames", "kept", "standing_still", "frames_kept")}
    assert counted == {"frames": 18, "kept": 6, "standing_still": 12, "frames_kept": 6}
    assert seen[-1] == (18, 6)
    assert found["ended_by"] == "end"
    for path in out.glob("*.jpg"):
        assert sum(read_frame_file(path).classes.values()) == pytest.approx(1, abs=1e-3)
    status = collection_status(out)
    assert status["drives"] == {"1": 6}
    assert status["bytes"] == found["bytes"]
    assert status["counts"]["standing_still"] == 12
    again = collect_frames(open_frames(drive), out, BUDGET, keep_free=0.0, max_frames=4)
    assert (again["frames"], again["kept"], again["ended_by"]) == (4, 0, "max_frames")
    assert len(list(open_frames(out))) == 6


class Camera:
    """A connection that gives so many pictures and fails."""

    fps = 30.0

    def __init__(self, pictures: list[np.ndarray]) -> None:
        self._pictures = pictures

    def __iter__(self) -> Any:
        return iter(self._pictures)


@pytest.mark.parametrize("with_engine", [False, True])
def test_a_camera_is_collected_until_a_stop(tmp_path: Path, with_engine: bool) -> None:
    pictures = [night_scene(seed) for seed in range(4)]
    camera = LiveSource("camera:0", lambda: Camera(pictures), note=lambda _: None)
    found = collect_frames(
        camera,
        tmp_path / "kept",
        BUDGET,
        keep_free=0.0,
        max_frames=4,
        engine=Threshold() if with_engine else None,
    )
    assert found["ended_by"] == "max_frames"
    assert found["kept"] >= 1  # however slow the machine, the newest is looked at
    assert found["frames"] <= 4
    pipeline = found["pipeline"]
    if with_engine:
        assert pipeline["frames_read"] == pipeline["frames"] + pipeline["dropped"] <= 4
        assert pipeline["latency_ms"]["p99"] > 0
    else:
        assert pipeline is None


def test_the_last_of_so_many_frames_is_waited_for(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is fitted to the engine, the pipeline asks several times whether to stop."""

    def slow(*given: Any) -> Any:
        sleep(3 * POLL_S)
        return fit_frame(*given)

    monkeypatch.setattr("roadshift.runtime.pipeline.runner.fit_frame", slow)
    found = collect_frames(
        *(open_frames(drive), tmp_path / "kept", BUDGET), engine=Threshold(), max_frames=2
    )
    assert (found["frames"], found["ended_by"]) == (2, "max_frames")


def test_a_thread_that_steps_back_leaves_the_others_as_they_are() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    found = list[int]()

    def work() -> None:
        step_back()
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [max(10, before)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


@pytest.mark.parametrize(("argument", "value"), [("keep_free", -0.1), ("cpu_share", 0.0)])
def test_a_share_that_is_none_names_its_argument(
    drive: Path, tmp_path: Path, argument: str, value: float
) -> None:
    shares = {argument: value}
    with pytest.raises(ConfigError, match=argument):
        collect_frames(open_frames(drive), tmp_path / "kept", BUDGET, **shares)  # type: ignore[arg-type]
    assert not (tmp_path / "kept").exists()


def test_a_folder_in_which_nothing_was_collected_has_no_status(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nothing was collected"):
        collection_status(tmp_path)
    with pytest.raises(OutputError, match="cannot be read"):
        collection_status(tmp_path / "missing")


def test_a_killed_collector_leaves_whole_files_and_goes_on() -> None:
    words = [sys.executable, str(LOAD), "kills", "--kills", "4", "--budget", "1000000"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"4 kills, [1-9]\d* frames, all whole\n", done.stdout)


def test_the_collector_to_kill_speaks_once_a_frame_is_kept(tmp_path: Path) -> None:
    words = [sys.executable, str(LOAD), "drive", "--out", str(tmp_path), "--budget", "1000000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert read_store(tmp_path)[0]


def test_kills_before_any_frame_are_no_result(tmp_path: Path) -> None:
    check = runpy.run_path(str(LOAD))["check"]
    with pytest.raises(SystemExit, match="no frame was kept"):
        check(tmp_path, 1_000_000)


def test_the_command_collects_and_says_what_is_there(drive: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    words = ("-m", "roadshift.cli", "collect")
    made = python_output(
        *words, drive, "--out", out, "--budget", "3MB", "--keep-free", "0", "--json"
    )
    assert json.loads(made)["kept"] == 6
    said = python_output(*words, "--status", out)
    assert said.startswith(f"{out} holds 6 frames of 1 drive")
