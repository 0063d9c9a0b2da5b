"""A guard against labels of target frames: while a run adapts, any way to read one raises.

The target folder holds ``images/`` and, beside it, ``labels/`` with label maps of the same names.
Functions that find or read label maps raise, and so does opening any file below ``labels/``.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from roadshift.adapt.data import labelled
from roadshift.adapt.data.dataset import Batch, CropSampler
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.runtime import labels
from roadshift.runtime.folders import label_pairs

LABEL_READERS = (
    labels.read_labels,
    label_pairs.find_labels,
    label_pairs.labelled_pairs,
    labelled.labelled_frames,
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
