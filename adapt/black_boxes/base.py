"""A source model that only answers, however it is reached, and the check of every answer.

Nothing of it but its answers is used: no weights, no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...runtime.bundle import InputSpec
from ...runtime.errors import ConfigError, LabelError, arg
from ...runtime.labels import LabelSpace

Answer = NDArray[Any]
Note = Callable[[str], None]
Holds = Literal["logits", "probabilities", "classes"]
Colour = Literal["rgb", "bgr"]
Triple = tuple[float, float, float]
NO_CLASS = 255
TOLERANCE = 1e-2  # of the sum of a pixel's probabilities; they may have been stored in float16


def _nothing_lacking(_: Sequence[str]) -> list[str]:
    return []


def _nothing_to_close() -> None:
    pass


@dataclass(frozen=True)
class BlackBox:
    """A source model as its answers.

    Attributes:
        answer: ``answer(name, image)``, for a frame's name and uint8 RGB (H, W, 3): float32
            probabilities (K, h, w), or uint8 class indices (h, w); checked by `checked_answer`.
        identity: changes when the model does, as far as can be told: a bundle's hash, SHA-256 of
            a file or of a folder's listing, a service's own, or a function's name.
        label_space: of its answers, where it says so itself.
        input: of the images that it sees, where it says so itself.
        looks: whether it answers to any image, and not only by the frame's name.
        lacks: the names, of those given, of frames that it has no answer to; all that can be told
            without asking.
        close: lets go of what it holds in memory; an answer after that loads it again.
    """

    answer: Callable[[str, NDArray[np.uint8]], Answer]
    identity: str
    label_space: LabelSpace | None = None
    input: InputSpec | None = None
    looks: bool = True
    lacks: Callable[[Sequence[str]], list[str]] = _nothing_lacking
    close: Callable[[], None] = _nothing_to_close


@dataclass(frozen=True)
class BoxWiring:
    """Preprocessing and output of a black box that does not say them itself.

    Attributes:
        output: which of a network's outputs answers, by name or by number from 0.
        colour: the order that it takes channels in; RGB unless given.
        mean, std: in 0-255 units, in the order of ``colour``; ImageNet's unless given.
        answers: what the answers hold; found from the first of them unless given.
        answer_timeout_s: the longest that one answer of a service may take.
        budgeted_s: the longest that the run's time budget allows for one; no choice of the user's.
    """

    output: str | int | None = None
    colour: Colour | None = None
    mean: Triple | None = None
    std: Triple | None = None
    answers: Holds | None = None
    answer_timeout_s: float = 60.0
    budgeted_s: float = math.inf

    def __post_init__(self) -> None:
        for name, known in (("colour", get_args(Colour)), ("answers", get_args(Holds))):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ConfigError(f"{arg(name)} {value!r} is none of {', '.join(known)}.")

    @property
    def timeout_s(self) -> float:
        """The longest that one answer of a service is waited for."""
        return min(self.answer_timeout_s, self.budgeted_s)

    def settled(self) -> dict[str, Any]:
        """The given ones on which the answers depend, by name, as JSON values."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        del given["answer_timeout_s"], given["budgeted_s"]
        return {n: list(v) if isinstance(v, tuple) else v for n, v in given.items()}

    def check_unused(self, source: object, why: str, used: Collection[str] = ()) -> None:
        """Refuse what a black box has no use for.

        Args:
            source: the black box, and ``why`` it has none, a clause.
            used: names of what it uses.

        Raises:
            ConfigError: something else is given.
        """
        default = BoxWiring(budgeted_s=self.budgeted_s)
        unused = [
            field.name
            for field in fields(self)
            if field.name not in used and getattr(self, field.name) != getattr(default, field.name)
        ]
        if unused:
            names = ", ".join(map(arg, unused))
            student = f" ({arg('student_output')} is the student's)" if "output" in unused else ""
            raise ConfigError(f"{names}: {source} {why}; leave {names} out{student}.")


def checked_answer(answer: Answer, num_classes: int, where: str) -> Answer:
    """``answer`` as float32 (K, h, w) that sums to 1, or as uint8 (h, w).

    Raises:
        LabelError: it is neither, with what is wrong and ``where``.
    """
    hard = answer.ndim == 2 and np.issubdtype(answer.dtype, np.integer)
    soft = answer.ndim == 3 and np.issubdtype(answer.dtype, np.floating)
    if not (hard or (soft and len(answer) == num_classes)) or answer.size == 0:
        raise LabelError(
            f"{where}: is {answer.dtype} {answer.shape}; give floating-point probabilities "
            f"({num_classes}, h, w), or integer class indices (h, w)."
        )
    return _checked_classes(answer, num_classes, where) if hard else _checked_soft(answer, where)


def _checked_classes(classes: Answer, num_classes: int, where: str) -> Answer:
    wrong = np.unique(classes[(classes < 0) | ((classes >= num_classes) & (classes != NO_CLASS))])
    if len(wrong):
        raise LabelError(
            f"{where}: has the classes {wrong[:5].tolist()}, and the label space has 0 to "
            f"{num_classes - 1}, with {NO_CLASS} for none; give the label space of the predictions."
        )
    return classes.astype(np.uint8)


def _checked_soft(answer: Answer, where: str) -> Answer:
    with np.errstate(all="ignore"):  # what overflows or is not finite is refused below
        p = answer.astype(np.float32)
        total = p.sum(axis=0)
        good = np.isfinite(total).all() and p.min() >= 0 and np.abs(total - 1).max() <= TOLERANCE
    if not good:
        raise LabelError(
            f"{where}: its numbers are no probabilities (from {p.min():.3g} to {p.max():.3g}, sums "
            f"from {total.min():.3g} to {total.max():.3g}); apply a softmax over the classes."
        )
    return np.asarray(p / total, np.float32)
