"""Arrays of a network or a service as answers: which axis holds the classes, and what they hold.

Class indices are integers. Numbers over the classes are logits, or probabilities where each pixel's
are from 0 up and sum to 1; one channel of two classes is the second one's, with a sigmoid where
some number lies outside [0, 1]. The first answer decides, and a later one that contradicts it is
refused.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import EngineError, LabelError, arg
from .base import TOLERANCE, Answer, Holds, Note

LARGEST_TOLERANCE = 0.25  # of the sum of a pixel's probabilities, however coarse their steps are


class AnswerReader:
    """Reader of the arrays that one black box gives.

    Args:
        num_classes: K.
        where: begins every sentence, "model.onnx: output 'out'".
        note: told what the first answer holds.
        holds: what the arrays hold; found from the first of them unless given.
        channels_last: the last axis is looked at first for the classes.
        step: the smallest difference of two numbers, where they were quantised; 0: none.
        advice: ends a sentence on an array that is no answer.
    """

    def __init__(
        self,
        num_classes: int,
        where: str,
        note: Note,
        *,
        holds: Holds | None = None,
        channels_last: bool = False,
        step: float = 0.0,
        advice: str | None = None,
    ) -> None:
        self._classes, self._where, self._note = num_classes, where, note
        self._holds, self._told = holds, holds is not None
        self._axes = (2, 0) if channels_last else (0, 2)
        self._step = step
        self._advice = advice or (
            f"give {arg('output')}, or the {arg('label_space')} of its classes"
        )

    def read(self, array: object, name: str) -> Answer:
        """The answer to the frame ``name``: float32 (K, h, w) that sums to 1, or integer (h, w).

        Args:
            array: (B, K, h, w), (B, h, w, K) or without B; of classes (B, h, w), or with one
                channel; of B frames the first counts.

        Raises:
            EngineError: it is of another shape or type.
            LabelError: its numbers are not finite, or not what the earlier ones were.
        """
        if not isinstance(array, np.ndarray) or array.size == 0:
            raise self._no_answer(array, name)
        if np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_:
            return self._classes_of(array, name)
        if not np.issubdtype(array.dtype, np.floating):
            raise self._no_answer(array, name)
        if not np.isfinite(array).all():
            bad = array.size - np.count_nonzero(np.isfinite(array))
            raise LabelError(
                f"{self._where}: gives {bad:,} numbers of {array.size:,} that are not finite on "
                f"frame {name}; mend the model, or {arg('mean')} and {arg('std')}."
            )
        if self._holds == "classes":
            whole = array.astype(np.int64)
            if (whole != array).any():
                raise self._contradicted(array, "classes", name)
            return self._classes_of(whole, name)
        return self._soft(self._by_class(array, name).astype(np.float32), name)

    def _classes_of(self, array: NDArray[np.generic], name: str) -> Answer:
        """(h, w) of class indices with axes of length 1 before or behind them."""
        if self._holds not in (None, "classes"):
            raise self._contradicted(array, "classes", name)
        found = array[0] if array.ndim == 4 else array
        if found.ndim == 3:
            axis = next((axis for axis in self._axes if found.shape[axis] == 1), None)
            if axis is None and array.ndim == 3:
                axis = 0  # several frames
            if axis is None:
                raise self._no_answer(array, name)
            found = np.take(found, 0, axis)
        if found.ndim != 2:
            raise self._no_answer(array, name)
        self._found("classes")
        return found.astype(np.uint8) if found.dtype == np.bool_ else found

    def _by_class(self, array: Answer, name: str) -> Answer:
        """Numbers with the classes on the first axis, (K, h, w), or (1, h, w) of two classes."""
        found = array[0] if array.ndim == 4 else array
        if found.ndim == 2 and self._classes == 2:
            found = found[None]
        if found.ndim != 3:
            raise self._no_answer(array, name)
        for channels in (self._classes, 1)[: 2 if self._classes == 2 else 1]:
            for axis in self._axes:
                if found.shape[axis] == channels:
                    return np.moveaxis(found, axis, 0)
        raise self._no_answer(array, name)

    def _soft(self, numbers: NDArray[np.float32], name: str) -> Answer:
        kind = self._kind(numbers, name)
        if len(numbers) == 1:  # of the second of two classes
            p = numbers if kind == "probabilities" else 1 / (1 + np.exp(-numbers.clip(-80, 80)))
            return np.concatenate([1 - p, p]).clip(0, 1).astype(np.float32)
        p = np.exp(numbers - numbers.max(axis=0)) if kind == "logits" else numbers
        return np.asarray(p / p.sum(axis=0), np.float32)

    def _kind(self, numbers: NDArray[np.float32], name: str) -> Holds:
        """The kind of these numbers; the first ones decide, where nobody said it."""
        if self._holds == "logits":
            return "logits"
        low, high = float(numbers.min()), float(numbers.max())
        alone = len(numbers) == 1
        off = 0.0 if alone else float(np.abs(numbers.sum(axis=0) - 1).max())
        tolerance = min(TOLERANCE + self._step * len(numbers), LARGEST_TOLERANCE)
        if low >= 0 and (high <= 1 or not alone) and off <= tolerance:
            return self._found("probabilities")
        if self._holds == "probabilities":
            raise self._contradicted(numbers, "probabilities", name)
        if low >= 0 and high <= 1:
            raise LabelError(
                f"{self._where}: gives numbers from {low:.3g} to {high:.3g} on frame {name} that "
                "do not sum to 1 over the classes, so it is not clear what they are; give "
                f"{arg('answers', 'logits')} if a softmax makes them probabilities."
            )
        return self._found("logits")

    def _found(self, kind: Holds) -> Holds:
        self._holds = kind
        if not self._told:
            self._told = True
            self._note(f"{self._where}: holds {kind}")
        return kind

    def _no_answer(self, array: object, name: str) -> EngineError:
        found = (
            f"{array.dtype} {array.shape}"
            if isinstance(array, np.ndarray)
            else f"a {type(array).__name__}"
        )
        soft, hard = f"logits (1, {self._classes}, h, w)", "labels (1, h, w)"
        wanted = {"classes": hard, None: f"{soft} and no {hard}"}.get(self._holds, soft)
        return EngineError(
            f"{self._where}: gives {found} on frame {name}, and no {wanted}; {self._advice}."
        )

    def _contradicted(self, array: Answer, kind: Holds, name: str) -> LabelError:
        return LabelError(
            f"{self._where}: gives {array.dtype} numbers from {float(array.min()):.3g} to "
            f"{float(array.max()):.3g} on frame {name}, and {self._holds or kind} "
            f"were expected; give {arg('answers')} as what they are."
        )
