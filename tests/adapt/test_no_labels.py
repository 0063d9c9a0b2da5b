"""No method looks at a label of the target frames: while it adapts, any way to read one raises.

The target folder holds ``images/`` and, beside it, ``labels/`` with label maps of the same names.
Functions that find or read label maps raise, and so does opening any file below ``labels/``.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from roadshift.adapt import Job, Student, adapt_black_box, adapt_bundle, dataset, resolve_config
from roadshift.adapt.dataset import Batch, CropSampler, FrameSet
from roadshift.adapt.methods import METHODS, build_stages
from roadshift.runtime import images, labels
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.labels import LabelSpace

LABEL_READERS = (
    labels.read_labels,
    images.find_labels,
    images.labelled_pairs,
    dataset.labelled_frames,
)
OPENERS = (
    (builtins, "open"),
    (io, "open"),
    (os, "open"),
    (cv2, "imread"),
    (cv2, "imreadmulti"),
    (cv2, "VideoCapture"),
)


class LabelReadError(AssertionError):
    """A label was read, or could have been."""


@pytest.fixture
def target(frames_dir: Path, tmp_path: Path) -> Path:
    """A folder with ``images/`` and their ground truth in ``labels/``."""
    root = tmp_path / "target"
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    for i, path in enumerate(sorted(frames_dir.iterdir())):
        (root / "images" / path.name).write_bytes(path.read_bytes())
        truth = np.full((32, 48), i % 4, np.uint8)
        assert cv2.imwrite(str(root / "labels" / path.name), truth)
    return root


@pytest.fixture
def no_labels(target: Path, monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """From here on reading a label raises; the batches that are drawn are gathered in the list."""
    forbidden = os.path.realpath(target / "labels")

    def refuse(*_: Any, **__: Any) -> Any:
        raise LabelReadError("a label map was looked for")

    modules = [m for name, m in sys.modules.items() if name.partition(".")[0] == "roadshift"]
    for module in modules:
        for name, value in list(vars(module).items()):
            if any(value is reader for reader in LABEL_READERS):
                monkeypatch.setattr(module, name, refuse)

    def guarded(opener: Callable[..., Any]) -> Callable[..., Any]:
        def open_unless_label(*args: Any, **kwargs: Any) -> Any:
            file = args[0] if args else next(iter(kwargs.values()), None)
            if isinstance(file, (str, os.PathLike)):
                path = os.path.realpath(file)
                if path == forbidden or path.startswith(forbidden + os.sep):
                    raise LabelReadError(f"{path} was opened")
            return opener(*args, **kwargs)

        return open_unless_label

    for module, name in OPENERS:
        monkeypatch.setattr(module, name, guarded(getattr(module, name)))

    make = FrameSet.__init__

    def without_labels(self: FrameSet, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        if self.labels is not None:
            raise LabelReadError("a set of frames with labels was opened")

    monkeypatch.setattr(FrameSet, "__init__", without_labels)
    drawn: list[Batch] = []
    draw = CropSampler.batch

    def gathered(self: CropSampler, step: int) -> Batch:
        drawn.append(draw(self, step))
        return drawn[-1]

    monkeypatch.setattr(CropSampler, "batch", gathered)
    return drawn


# --- the methods ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_nothing_reads_a_target_label_while_adapting(
    method: str, source: Bundle, target: Path, tmp_path: Path, no_labels: list[Batch]
) -> None:
    small = ["training.batch_size=2", "training.amp=off", "bn_batch_size=3"]
    stages = build_stages(resolve_config(method))
    steps = max(2, 2 * sum(stage.share for stage in stages))  # each stage takes one or more
    if resolve_config(method).warm_start == "mixed":
        small.append("warm_start=target")  # with which every stage takes part
    config = resolve_config(method, assignments=[*small, f"training.steps={steps}"])
    job = Job(tmp_path / "out", device="cpu")
    if METHODS[method].black_box:
        answers, student = black_box(source.label_space, target, tmp_path)
        bundle = adapt_black_box(str(answers), [target], config, job, student)
    else:
        bundle = adapt_bundle(source, [target], config, job)
    assert bundle.manifest.provenance.frames == 6
    assert len(no_labels) >= steps if stages else not no_labels
    assert all(batch.labels is None for batch in no_labels)
    history = (bundle.path / "history.jsonl").read_text().splitlines() if stages else []
    assert {json.loads(line)["stage"] for line in history} == {stage.name for stage in stages}


def black_box(space: LabelSpace, target: Path, folder: Path) -> tuple[Path, Student]:
    """A folder with a model's answers, which are no labels, and a student for them."""
    answers = folder / "answers"
    answers.mkdir()
    rng = np.random.default_rng(0)
    for path in (target / "images").iterdir():
        p = rng.dirichlet(np.ones(space.num_classes), (8, 12)).transpose(2, 0, 1)
        np.savez_compressed(answers / path.stem, p=p.astype(np.float32))
    (folder / "space.json").write_text(json.dumps(space.to_dict()))
    return answers, Student("tiny_network:build", str(folder / "space.json"), "48x32")


# --- the guard itself ----------------------------------------------------------------------------

WAYS: dict[str, Callable[[Path], Any]] = {
    "read_labels": lambda label: labels.read_labels(label, labels.label_space("camvid11")),
    "dataset.read_labels": lambda label: dataset.read_labels(label, labels.label_space("camvid11")),
    "find_labels": lambda label: images.find_labels(*image_and_folders(label)),
    "labelled_pairs": lambda label: images.labelled_pairs(*image_and_folders(label)[1:]),
    "a set with labels": lambda _: FrameSet(["a"], 48, 32, lambda _: truth(), lambda _: truth()),
    "read_image": images.read_image,
    "read_frame_image": images.read_frame_image,
    "open": lambda label: open(label, "rb"),  # noqa: SIM115 - it raises
    "Path.open": lambda label: label.open("rb"),
    "Path.read_bytes": lambda label: label.read_bytes(),
    "os.open": lambda label: os.open(label, os.O_RDONLY),
    "cv2.imread": lambda label: cv2.imread(str(label)),
    "cv2.VideoCapture": lambda label: cv2.VideoCapture(str(label)),
    "numpy.fromfile": lambda label: np.fromfile(label, np.uint8),
}


def image_and_folders(label: Path) -> tuple[Path, Path, Path]:
    root = label.parents[1]
    return root / "images" / label.name, root / "images", root / "labels"


def truth() -> dataset.Image:
    return np.zeros((32, 48), np.uint8)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_a_label_is_barred(way: str, target: Path, no_labels: list[Batch]) -> None:
    del no_labels  # it bars them
    with pytest.raises(LabelReadError):
        WAYS[way](target / "labels" / "frame_0.png")


def test_images_beside_the_labels_can_be_read(target: Path, no_labels: list[Batch]) -> None:
    del no_labels
    paths = images.list_images(target)
    assert [path.parent.name for path in paths] == ["images"] * 6
    assert images.read_image(paths[0]).shape == (32, 48, 3)
