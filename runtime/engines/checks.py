"""Answers of a network that are none: no labels, classes that do not exist, scores that are NaN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError

EXPORT_AGAIN = "export the bundle again, or restore it from a copy"
GO_BACK = "restore the bundle from a copy, or go back to one that works"


class BadAnswerError(EngineError):
    """A frame that a network has no usable answer to; `Engine.infer` makes the sentence.

    Attributes:
        problem: the predicate of the sentence, as "gives class 200 of 19".
        frame: its index in the batch.
        advice: what to do.
    """

    def __init__(self, problem: str, frame: int = 0, advice: str = EXPORT_AGAIN) -> None:
        super().__init__(problem)
        self.problem, self.frame, self.advice = problem, frame, advice

    def sentence(self, artefact: str, names: Sequence[str], frames: int) -> str:
        """The whole sentence; a frame without a name is named by its place in the batch."""
        if self.frame < len(names):
            where = f" on frame {names[self.frame]}"
        else:
            where = f" on frame {self.frame + 1} of {frames}" if frames > 1 else ""
        return f"{artefact} {self.problem}{where}; {self.advice}."


def check_labels(labels: Any, shape: tuple[int, ...], classes: int) -> None:
    """Refuse what are not class indices, uint8 of ``shape`` (B, h, w), each below ``classes``.

    Takes one pass over the labels.

    Raises:
        BadAnswerError: with the first frame that is wrong.
    """
    check_array(labels, "labels", np.uint8, shape)
    if labels.max() < classes:
        return
    frame = int(np.flatnonzero(labels.reshape(len(labels), -1).max(axis=1) >= classes)[0])
    found = int(labels[frame].max())
    raise BadAnswerError(f"gives class {found} where the label space has {classes} classes", frame)


def check_logits(logits: Any, shape: tuple[int, ...]) -> None:
    """Refuse what are not finite scores, float32 of ``shape`` (B, K, h, w).

    Raises:
        BadAnswerError: with the first frame that is wrong.
    """
    check_array(logits, "logits", np.float32, shape)
    if np.isfinite(logits.min()) and np.isfinite(logits.max()):
        return
    finite = np.isfinite(logits).reshape(len(logits), -1)
    frame = int(np.flatnonzero(~finite.all(axis=1))[0])
    raise not_finite(frame, int((~finite[frame]).sum()), finite.shape[1])


def not_finite(frame: int, count: int | None = None, of: int | None = None) -> BadAnswerError:
    """The refusal of scores that are NaN or infinite, ``count`` of ``of`` where that is known."""
    some = "logits" if count is None else f"{count} of {of} logits"
    return BadAnswerError(f"gives {some} that are not finite", frame, GO_BACK)


def check_array(found: Any, what: str, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    """Refuse what is not an array of that type and shape.

    Raises:
        BadAnswerError: it is something else, or empty.
    """
    wanted: NDArray[Any] = np.empty(0, dtype)
    if not isinstance(found, np.ndarray):
        raise BadAnswerError(f"gives a {type(found).__name__} where an array of {what} belongs")
    if found.dtype != wanted.dtype or found.shape != shape or found.size == 0:
        size = "x".join(map(str, found.shape)) or "no axis"
        if found.size == 0:
            raise BadAnswerError(f"gives empty {what}, of {size}")
        raise BadAnswerError(
            f"gives {found.dtype} {what} of {size} where {wanted.dtype} of "
            f"{'x'.join(map(str, shape))} belong"
        )
