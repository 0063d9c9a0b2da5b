"""Signs that label files hold other ids than they are read as; each is said, none is repaired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import Sentence, arg
from ..pictures.png import decode_label_png, read_png
from .file_ids import RAW_ENDING, TRAIN_ENDING
from .files import read_labels
from .linear_assignment import best_matching
from .spaces import LabelSpace
from .tables import CITYSCAPES

_SAMPLES = 8
_NEARLY_ALL = 0.99  # of the pixels, in one class: a model that answers nothing else
_MOSTLY = 0.9  # of the pixels, where that class is indeed nearly all


def label_notes(
    files: Sequence[Path],
    space: LabelSpace,
    void_share: float,
    matrix: NDArray[np.int64] | None,
    unmapped: int = 0,
) -> list[str]:
    """Sentences on label maps of which most pixels are not labelled, or that fit other classes.

    A model that answers one class everywhere would fit those, too, and is said in their place.

    Args:
        files: the label maps.
        space: how they were read.
        void_share: the share of their pixels that are not labelled.
        matrix: pixels of truth ``i`` that a model takes for ``j``, (K, K), where one was measured.
        unmapped: pixels that it takes for classes that the label maps do not have.
    """
    notes = []
    if void_share > 0.5:
        said = (
            f"{100 * void_share:.0f} % of the pixels of {len(files)} label maps are not labelled "
            f"in label space {space.name}"
        )
        if _look_like_train_ids(files):
            said += (
                f"; files named *{RAW_ENDING} hold only ids that Cityscapes' train ids have: if "
                f"they are train ids, name them *{TRAIN_ENDING}"
            )
        notes.append(said + ".")
    if matrix is not None and (collapsed := _collapsed(matrix, unmapped, space)):
        notes.append(collapsed)
    elif matrix is not None and _is_one_too_high(matrix):
        notes.append(
            f"The model takes most pixels for the class before their label's in {space.name}: "
            "these label maps seem to hold 0 where nothing is labelled and to count classes from "
            f"1; if so, take 1 from each id and write {space.ignore_index} for 0."
        )
    elif matrix is not None and (renamed := _renamed(matrix, space)):
        notes.append(renamed)
    return notes


def check_label_maps(files: Sequence[Path], space: LabelSpace, note: Callable[[str], None]) -> None:
    """Say what eight of the label maps, evenly spaced, show.

    Raises:
        LabelError, LabelSpaceError: see `read_labels`.
    """
    chosen = _some(files)
    maps = [read_labels(path, space) for path in chosen]
    pixels = sum(one.size for one in maps)
    void = sum(int((one == space.ignore_index).sum()) for one in maps)
    for sentence in label_notes(chosen, space, void / max(pixels, 1), None):
        note(sentence)


def _some(files: Sequence[Path]) -> list[Path]:
    step = max(1, -(-len(files) // _SAMPLES))
    return list(files[::step])


def _look_like_train_ids(files: Sequence[Path]) -> bool:
    """True if all that are named as raw ids hold ids 0 to 18 and 255, and there are some."""
    named = _some([path for path in files if path.name.endswith(RAW_ENDING)])
    found: set[int] = set()
    for path in named:
        png = read_png(path)
        label_map = decode_label_png(png, path, channel=0 if png.is_colour else None)
        found |= set(np.unique(label_map).tolist())
    return bool(named) and found <= {*range(len(CITYSCAPES)), 255}


def _collapsed(matrix: NDArray[np.int64], unmapped: int, space: LabelSpace) -> str:
    """The sentence on a model that answers one class everywhere, or nothing."""
    total = int(matrix.sum()) + unmapped
    answered, true = matrix.sum(axis=0), matrix.sum(axis=1)
    most = int(answered.argmax())
    if total == 0 or answered[most] < _NEARLY_ALL * total:
        return ""
    if true[most] > _MOSTLY * total or true.max() > _NEARLY_ALL * total:  # nothing to tell apart
        return ""
    return Sentence(
        f"The model takes {100 * answered[most] / total:.0f} % of the labelled pixels for "
        f"{space.classes[most]}, and {100 * true[most] / total:.0f} % of them are: it tells "
        "nothing apart. Either it has not learned the other classes, or it was imported with "
        f"another {arg('colour')}, {arg('mean')} or {arg('std')} than it was trained with, or with "
        f"another {arg('output')} than its logits."
    )


def _is_one_too_high(matrix: NDArray[np.int64]) -> bool:
    """Tell whether most pixels, twice as many as are right, have the class below their label's."""
    before = int(np.trace(matrix, offset=-1))
    return 2 * before > int(matrix.sum()) and before > 2 * int(np.trace(matrix))


def _renamed(matrix: NDArray[np.int64], space: LabelSpace) -> str:
    """The sentence on labels of which most fit the model once classes are renamed, or nothing."""
    order = best_matching(matrix.astype(np.float64))
    right, total = int(np.trace(matrix)), int(matrix.sum())
    fitting = int(matrix[range(len(order)), order].sum())
    if not (2 * fitting > total and fitting > 2 * right):
        return ""
    moved = [i for i, j in enumerate(order) if i != j]
    most = max(moved, key=lambda i: int(matrix[i, order[i]]))
    return Sentence(
        f"The model agrees with {100 * right / total:.0f} % of the labelled pixels, and with "
        f"{100 * fitting / total:.0f} % if classes are renamed (it calls "
        f"{space.classes[order[most]]} what the labels call {space.classes[most]}): these label "
        f"maps seem to be of another label space than {space.name} (see {arg('label_space')}), "
        "or the model's classes in another order."
    )
