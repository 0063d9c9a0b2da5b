"""Accuracy of source models asked once, and about four views. Writes docs/results/four-views.md.

    python benchmarks/four_views.py --camvid DIR [--work DIR] [--seeds 3]

The source models are those of ``methods.py``, exported to ONNX; no student is involved. Night and
fog are the frames that ``black_box.py`` measures on, where the four views were chosen; CamVid's
dusk (``DIR`` as for ``camvid.py``) chose nothing of them.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import get_args

import camvid
import cv2
import methods
import numpy as np
from numpy.typing import NDArray
from roadshift.adapt.black_boxes import open_black_box
from roadshift.adapt.pseudo_labels.stored_answers import Ask, answer_to
from roadshift.runtime.bench.evaluation import evaluate
from roadshift.runtime.bundle import open_bundle
from roadshift.runtime.engines import Engine
from roadshift.runtime.folders.label_pairs import labelled_pairs

PAGE = Path("docs/results/four-views.md")
INTRODUCTION = """\
# A source model asked about four views

What a black box says about a frame, and the mean of what it says about the frame, the frame with
its contrast stretched, and the mirror image of both (`ask=four_views`). mIoU in percent, with the
source models of [every method side by side](methods.md), mean ± standard deviation over
{seeds} seeds, CPU, float32. Night and fog: 40 frames, whose labels chose the four views. CamVid's
dusk: {dusk} frames, which chose nothing of them. Printed by `python benchmarks/four_views.py`.

| frames | asked once | four views | gain |
|---|---|---|---|
"""


class Asked(Engine):
    """The answers of a bundle's ONNX file, as labels."""

    def __init__(self, bundle: Path, ask: Ask) -> None:
        opened = open_bundle(bundle)
        self._black_box, self._ask = open_black_box(str(bundle)), ask
        super().__init__(
            opened.label_space,
            opened.manifest.input,
            backend="onnxruntime",
            precision="fp32",
            device="cpu",
            reason="a black box",
        )

    def _infer(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = (self.input.width, self.input.height)
        classes = self.label_space.num_classes
        answers = [answer_to(self._black_box, "", image, classes, self._ask) for image in batch]
        fitted = [cv2.resize(p.transpose(1, 2, 0), size) for p in answers]
        return np.stack([p.argmax(axis=-1).astype(np.uint8) for p in fitted])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("methods-work"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    work: Path = arguments.work
    scenes = methods.render_scenes(work / "scenes/frames")
    splits = camvid.make_splits(arguments.camvid, work / "camvid/frames")
    page = INTRODUCTION.format(
        seeds=arguments.seeds, dusk=len(list((splits["dusk_all"] / "images").iterdir()))
    )
    for title, shift, train, day, target in (
        (
            "night and fog",
            "scenes",
            methods.train_on_scenes,
            scenes["day_train"],
            scenes["heldout"],
        ),
        ("CamVid's dusk", "camvid", camvid.train, splits["day_train"], splits["dusk_all"]),
    ):
        found: list[dict[Ask, float]] = []
        for seed in range(arguments.seeds):
            source = work / f"{shift}/source-{seed}"
            train(source, day, seed)
            found.append(measure(exported(source, day / "images"), target))
        once, four = ([miou[ask] for miou in found] for ask in get_args(Ask))
        gains = [b - a for a, b in zip(once, four, strict=True)]
        cells = (title, *map(methods.spread, (once, four)), methods.spread(gains, sign=True))
        page += f"| {' | '.join(cells)} |\n"
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page)
    print(page)


def exported(source: Path, frames: Path) -> Path:
    """A copy of ``source`` that answers with probabilities; an export changes a bundle's hash."""
    copy = source.with_name(f"{source.name}-onnx")
    if not (copy / "model.onnx").exists():
        shutil.copytree(source, copy, dirs_exist_ok=True)
        camvid.roadshift("export", copy, "--to", "onnx", "--logits", "--frames", frames)
    return copy


def measure(bundle: Path, split: Path) -> dict[Ask, float]:
    """mIoU in percent, by way of asking."""
    pairs = labelled_pairs(split / "images", split / "labels")
    return {ask: evaluate(Asked(bundle, ask), pairs).miou() for ask in get_args(Ask)}


if __name__ == "__main__":
    main()
