"""`roadshift select`: what is written, what is refused, and the loop that it closes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from roadshift.adapt import train_bundle
from roadshift.adapt.run.config import RunConfig
from roadshift.adapt.workflows.selection import check_selection_output, select_frames
from roadshift.runtime.api import evaluate
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import ConfigError, OutputError, RunInterrupted
from roadshift.runtime.labels import read_labels
from run_cases import run_options


def quiet(_: object) -> None:
    """Takes notes and progress."""


def test_frames_are_chosen_and_pre_labelled_with_the_models_own_labels(
    source: Bundle, recording: Path, tmp_path: Path
) -> None:
    out = tmp_path / "selected"
    made = select_frames(
        source, recording, out=out, tool="cityscapes", count=5, on_note=quiet, device="cpu"
    )
    assert made.looked_at == 40
    names = {name for name, _ in made.frames}
    maps = {p.name.split("_gtFine")[0]: p for p in out.rglob("*_gtFine_labelTrainIds.png")}
    assert maps.keys() == names
    assert len(names) == 5
    record = json.loads((out / "selection.json").read_text())
    assert [one["name"] for one in record["frames"]] == [name for name, _ in made.frames]
    files = [str(recording / f"{name}.png") for name, _ in made.frames]
    assert [one["file"] for one in record["frames"]] == files
    with open_engine(source, backend="torch", device="cpu") as engine:
        for name, path in maps.items():
            image = cv2.imread(str(recording / f"{name}.png"))[..., ::-1]
            labels = engine.segment(np.ascontiguousarray(image))
            np.testing.assert_array_equal(read_labels(path, source.label_space), labels)


def test_images_beside_a_video_have_their_files(
    source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    video = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 32))
    for value in (60, 120, 180):
        writer.write(np.full((32, 48, 3), value, np.uint8))
    writer.release()
    made = select_frames(
        source,
        [frames_dir, video],
        out=tmp_path / "selected",
        tool="coco",
        count=9,
        on_note=quiet,
        device="cpu",
    )
    by_name = {one["name"]: one for one in made.record()["frames"]}
    assert len(by_name) == 9
    images = {path.stem: str(path) for path in frames_dir.iterdir()}
    assert {name: one["file"] for name, one in by_name.items() if "file" in one} == images
    assert sum("timestamp_ns" in one for one in by_name.values()) == 3


def test_labelled_frames_are_learned_from_and_measured(
    source: Bundle, recording: Path, tmp_path: Path, settings: object
) -> None:
    selected, learned = tmp_path / "selected", tmp_path / "learned"
    select_frames(
        source, recording, out=selected, tool="cityscapes", count=6, on_note=quiet, device="cpu"
    )
    for path in selected.rglob("*_gtFine_labelTrainIds.png"):  # what a person would correct
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), (labels > 1).astype(np.uint8))
    assert callable(settings)
    config: RunConfig = settings("training.steps=2", method="supervised")
    images, labels = selected / "leftImg8bit", selected / "gtFine"
    bundle = train_bundle(
        images,
        labels,
        source.label_space,
        source.manifest.network,
        source.manifest.input,
        config,
        run_options(learned),
        initial=source.path / "model.safetensors",
    )
    with open_engine(bundle, backend="torch", device="cpu") as engine:
        found = evaluate(engine, images, labels, on_note=quiet).record()
    assert found["frames"] == 6


def test_fewer_frames_than_asked_for_are_all_taken_and_said(
    source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    out = tmp_path / "selected"
    made = select_frames(
        source, frames_dir, out=out, tool="coco", count=50, on_note=said.append, device="cpu"
    )
    assert len(made.frames) == 6
    assert "there are 6 frames to choose from, fewer than count: all of them are taken" in said


@pytest.mark.parametrize(
    ("argument", "value"), [("tool", "paint"), ("by", "luck"), ("count", 0), ("max_frames", -1)]
)
def test_what_makes_no_sense_names_its_argument(
    source: Bundle, frames_dir: Path, tmp_path: Path, argument: str, value: object
) -> None:
    given = {"tool": "cvat", argument: value}
    with pytest.raises(ConfigError, match=argument):
        select_frames(source, frames_dir, out=tmp_path / "out", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_what_lies_there_is_only_replaced_if_it_is_a_selection_and_that_is_wanted(
    source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = {"tool": "labelme", "count": 2, "on_note": quiet, "device": "cpu"}
    select_frames(source, frames_dir, out=out, **options)  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="already exists"):
        select_frames(source, frames_dir, out=out, **options)  # type: ignore[arg-type]
    options["count"] = 1
    select_frames(source, frames_dir, out=out, overwrite=True, **options)  # type: ignore[arg-type]
    assert len(list(out.glob("*.png"))) == 1
    (out / "selection.json").unlink()
    with pytest.raises(OutputError, match="no selection"):
        select_frames(source, frames_dir, out=out, overwrite=True, **options)  # type: ignore[arg-type]


def test_a_stop_leaves_nothing(source: Bundle, frames_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted):
        select_frames(
            source,
            frames_dir,
            out=tmp_path / "out",
            tool="cvat",
            stop_requested=lambda: True,
            on_note=quiet,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"missing is not an existing folder; create it first"):
        check_selection_output(tmp_path / "missing" / "labels", overwrite=False)
