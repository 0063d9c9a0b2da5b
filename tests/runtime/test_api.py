"""`roadshift.evaluate`: one bundle or engine against ground truth, and its record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import roadshift
from roadshift.runtime.bundle import Bundle

MakeBundle = Callable[..., Bundle]


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of three images and their label maps, of the four classes of the bundles."""
    rng = np.random.default_rng(0)
    folders = tmp_path / "images", tmp_path / "labels"
    for folder in folders:
        folder.mkdir()
    for i in range(3):
        image = rng.integers(0, 256, (16, 32, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folders[0] / f"{i}.png"), image)
        label_map = rng.integers(0, 4, (16, 32), dtype=np.uint8)
        assert cv2.imwrite(str(folders[1] / f"{i}.png"), label_map)
    return folders


def test_a_folder_a_bundle_and_an_engine_are_measured_alike(
    make_bundle: MakeBundle, labelled: tuple[Path, Path]
) -> None:
    bundle = make_bundle()
    seen: list[roadshift.ProgressUpdate] = []
    found = roadshift.evaluate(bundle.path, *labelled, on_progress=seen.append)
    assert found == roadshift.evaluate(bundle, *labelled, threads=1)
    with roadshift.open_engine(bundle) as engine:
        assert found == roadshift.evaluate(engine, *map(str, labelled))
        assert engine.segment(np.zeros((16, 32, 3), np.uint8)).shape == (16, 32)  # is still open
    assert [(update.task, update.done, update.total) for update in seen] == [
        ("eval", done, 3) for done in (1, 2, 3)
    ]
    assert (found.frames, found.engine) == (3, "onnxruntime")
    assert found.iou.keys() == set(bundle.label_space.classes)
    assert 0 <= found.miou <= 100


def test_the_record_is_what_eval_prints(
    make_bundle: MakeBundle, labelled: tuple[Path, Path]
) -> None:
    bundle = make_bundle()
    record = roadshift.evaluate(bundle, *labelled).record()
    assert list(record) == ["miou", "iou", "pixel_accuracy", "frames", "ci95", "engine", "images"]
    assert isinstance(record["ci95"], list)


def test_labels_of_other_classes_go_through_a_map(
    make_bundle: MakeBundle, labelled: tuple[Path, Path]
) -> None:
    bundle = make_bundle()
    ours = bundle.label_space.classes
    two = roadshift.LabelSpace("two", ("ground", "rest"), ((0, 0, 0), (1, 1, 1)), void_ids=(2, 3))
    names = {ours[0]: "ground", **dict.fromkeys(ours[1:], "rest")}
    notes: list[str] = []
    found = roadshift.evaluate(
        bundle, *labelled, label_space=two, label_map=names, on_note=notes.append
    )
    assert found.iou.keys() == {"ground", "rest"}
    assert found.label_map is not None
    assert found.record()["label_map"]["to"] == "two"
    assert any("label map" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "error", "argument", "words"),
    [
        (
            {"label_map": {"a": "b"}},
            roadshift.ConfigError,
            "label_map",
            "which these are with label_space",
        ),
        ({"label_space": "camvid11"}, roadshift.LabelSpaceError, "label_map", "no built-in label"),
        ({"backend": "tflite"}, roadshift.EngineError, "backend", "use auto"),
        ({"device": "npu"}, roadshift.EngineError, "device", "use auto, cpu or cuda"),
        ({"threads": 0}, roadshift.EngineError, "threads", "at least 1"),
        ({"artefact": "x.onnx"}, roadshift.EngineError, "artefact", "its models are"),
        ({"bundle": "nowhere"}, roadshift.BundleError, "bundle", "does not exist"),
        ({"images": "nowhere"}, roadshift.FrameError, "images", "not a folder"),
        ({"label_space": "city"}, roadshift.LabelSpaceError, "label_space", "no such label space"),
        ({"labels": "nowhere"}, roadshift.LabelError, "labels", "not a folder"),
    ],
)
def test_an_error_names_the_argument(
    changes: dict[str, Any],
    error: type[roadshift.RoadshiftError],
    argument: str,
    words: str,
    make_bundle: MakeBundle,
    labelled: tuple[Path, Path],
) -> None:
    images, labels = labelled
    given: dict[str, Any] = {"bundle": make_bundle(), "images": images, "labels": labels}
    with pytest.raises(error, match=words) as caught:
        roadshift.evaluate(**given | changes)
    assert caught.value.argument == argument
