"""Measuring an engine against ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..engines import Engine
from ..errors import ConfigError, LabelError, LabelSpaceError, arg, naming
from ..frames import Frame
from ..frames.images import read_frame_image
from ..given import path_of
from ..labels import LabelSpace, label_space, read_labels
from ..labels.class_mapping import ClassNames
from ..labels.file_ids import LabelIds
from ..labels.label_id_checks import label_notes
from ..labels.metrics import ConfusionMatrix, evaluation_record
from ..labels.spaces import UNMAPPED, LabelMap
from ..notes import log_note
from ..words import shortened


def evaluate(
    engine: Engine,
    pairs: Sequence[tuple[Path, Path]],
    space: LabelSpace | LabelMap | None = None,
    report: Callable[[int, int], None] = lambda *_: None,
    ids: LabelIds | None = None,
    *,
    note: Callable[[str], None] = log_note,
) -> ConfusionMatrix:
    """Segment every image and count its pixels against its label map, at the label map's size.

    Args:
        engine: what is measured.
        pairs: image and label files, see `labelled_pairs`.
        space: how the label files are encoded; the engine's own label space unless given. The
            result has its classes. Of other classes than the engine's, it is reached by the label
            map that `LabelSpace.map_to` finds, which is noted. A label map in its place leads from
            the engine's classes to the label space that the label files are in.
        report: called with images done and images in all.
        ids: what the label files hold; None: they say so themselves, see `read_labels`.
        note: called with a sentence where the labels seem to hold other ids, see `label_notes`.

    Raises:
        LabelSpaceError: ``space`` has other classes than the engine, and no label map leads there.
        LabelError: label maps hold a class that no labels of ``space`` do.
        FrameError, LabelError: a file is damaged, or a label map has another size than its image.
    """
    own = engine.label_space
    if isinstance(space, LabelMap):
        mapping = own.map_to(space.target, space)
    else:
        mapping = own.map_to(space or own)
        for sentence in mapping.notes():
            note(sentence)
    space = mapping.target
    confusion = confusion_through(mapping)
    pixels = 0
    for done, (image_path, label_path) in enumerate(pairs):
        image = read_frame_image(image_path)
        labels = read_labels(label_path, space, (image.shape[1], image.shape[0]), ids)
        prediction = engine.segment(Frame(image, image_path.name, 0))
        confusion.update(mapping.apply(prediction), labels)
        pixels += labels.size
        report(done + 1, len(pairs))
    check_truths(confusion, space)
    void_share = 1 - confusion.labelled / max(pixels, 1)
    files, unmapped = [path for _, path in pairs], int(confusion.unmapped.sum())
    for sentence in label_notes(files, space, void_share, confusion.matrix, unmapped):
        note(sentence)
    return confusion


def measure(
    engine: Engine,
    pairs: Sequence[tuple[Path, Path]],
    label_map: LabelMap | None = None,
    report: Callable[[int, int], None] = lambda *_: None,
    *,
    note: Callable[[str], None] = log_note,
) -> dict[str, Any]:
    """Measure mIoU and per-class IoU, and give the record of `evaluation_record`.

    Args:
        engine, pairs, report, note: see `evaluate`.
        label_map: from the engine's classes to those of the labels; None: they are the same.

    Raises:
        RoadshiftError: see `evaluate`.
    """
    confusion = evaluate(engine, pairs, label_map, report, note=note)
    space = label_map.target if label_map else engine.label_space
    return evaluation_record(confusion, space, engine.backend, label_map)


def labels_through(
    own: LabelSpace,
    labels_of: LabelSpace | str | Path | None,
    label_map: LabelMap | ClassNames | str | Path | None,
    *,
    note: Callable[[str], None] = log_note,
) -> LabelMap | None:
    """The label map from a model's classes to those of label files; None where none is asked for.

    Args:
        own: the model's label space.
        labels_of: label space of the label files, a built-in one or a JSON file; that of a
            `LabelMap` unless given.
        label_map: a JSON file, or names; a built-in map unless given, see `LabelSpace.map_to`.
        note: called with sentences on the map.

    Raises:
        ConfigError: a map without the label space that it leads to.
        LabelSpaceError: one of the two cannot be read, or no map leads there.
    """
    if isinstance(label_map, LabelMap):
        labels_of = labels_of or label_map.target
    check_label_map(labels_of, label_map)
    if labels_of is None:
        return None
    with naming(label_space=LabelSpaceError):
        space = labels_of if isinstance(labels_of, LabelSpace) else label_space(labels_of)
    found = own.map_to(space, label_map)
    for sentence in found.notes():
        note(sentence)
    return found


def check_label_map(labels_of: object, label_map: object) -> None:
    """Raise ConfigError for a label map without the label space that it leads to.

    Also for a label space that is none, no name and no file.
    """
    if not isinstance(labels_of, (LabelSpace, type(None))):
        path_of("label_space", labels_of)
    if label_map is not None and labels_of is None:
        raise ConfigError(
            f"{arg('label_map')} {shortened(str(label_map))}: leads from the bundle's classes to "
            f"those of the labels; say which these are with {arg('label_space')}."
        )


def confusion_through(label_map: LabelMap) -> ConfusionMatrix:
    """An empty confusion matrix for what `LabelMap.apply` gives, and labels of its target."""
    target = label_map.target
    return ConfusionMatrix(target.num_classes, target.ignore_index, UNMAPPED)


def check_truths(confusion: ConfusionMatrix, space: LabelSpace) -> None:
    """Refuse labels of a class that ``space`` says no labels hold.

    Raises:
        LabelError: there are some.
    """
    truths = confusion.matrix.sum(axis=1) + confusion.unmapped
    found = [
        name
        for name, count in zip(space.classes, truths, strict=True)
        if count and name in space.never_labelled
    ]
    if found:
        raise LabelError(
            f"label maps hold {', '.join(found)}, which label space {space.name} says that no "
            f"labels hold; write {space.ignore_index} where nothing is labelled, or give a label "
            "space without never_labelled."
        )
