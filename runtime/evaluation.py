"""Measuring an engine against ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from .engine import Engine
from .errors import LabelSpaceError
from .images import read_image
from .label_census import label_notes
from .label_pairs import log_note
from .labels import LabelSpace, read_labels
from .layouts import LabelIds
from .metrics import ConfusionMatrix


def evaluate(
    engine: Engine,
    pairs: Sequence[tuple[Path, Path]],
    space: LabelSpace | None = None,
    report: Callable[[int, int], None] = lambda *_: None,
    ids: LabelIds | None = None,
    *,
    note: Callable[[str], None] = log_note,
) -> ConfusionMatrix:
    """Segment every image and count its pixels against its label map, at the label map's size.

    Args:
        engine: what is measured.
        pairs: image and label files, see `labelled_pairs`.
        space: how the label files are encoded; the engine's own label space unless given.
        report: called with images done and images in all.
        ids: what the label files hold; None: they say so themselves, see `read_labels`.
        note: called with a sentence where the labels seem to hold other ids, see `label_notes`.

    Raises:
        LabelSpaceError: ``space`` has other classes than the engine.
        FrameError, LabelError: a file is damaged, or a label map has another size than its image.
    """
    space = space or engine.label_space
    if space.classes != engine.label_space.classes:
        raise LabelSpaceError(
            f"the labels are in {space.name} ({space.num_classes} classes) and the model in "
            f"{engine.label_space.name} ({engine.label_space.num_classes} classes): measure it "
            "with labels of its own classes, in the same order."
        )
    confusion = ConfusionMatrix(space.num_classes, space.ignore_index)
    pixels = 0
    for done, (image_path, label_path) in enumerate(pairs):
        image = read_image(image_path)
        labels = read_labels(label_path, space, (image.shape[1], image.shape[0]), ids)
        confusion.update(engine.segment(image), labels)
        pixels += labels.size
        report(done + 1, len(pairs))
    void_share = 1 - int(confusion.matrix.sum()) / max(pixels, 1)
    for sentence in label_notes([path for _, path in pairs], space, void_share, confusion.matrix):
        note(sentence)
    return confusion
