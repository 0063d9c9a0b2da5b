"""A black box's answers to the target frames: asked for once, and kept as `SoftLabels`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import ConfigError, LabelError
from ..black_boxes.base import Answer, BlackBox, checked_answer
from ..data.augment import stretched
from ..data.context import Context
from .soft_labels import SoftLabels

Ask = Literal["once", "four_views"]


class StoredAnswers(SoftLabels):
    """Answers of the context's black box to all its frames; those that are there are not asked for.

    An answer that is none ends the run; those before it stay, for a resume.

    Args:
        num_classes: K.
        ask: "four_views" takes the mean of what it says about the frame, the frame with its
            contrast stretched, and the mirror image of both; a folder of predictions has one.

    Raises:
        ConfigError: the context has no black box.
        RoadshiftError: the black box fails, or gives an answer that is none.
    """

    def __init__(self, context: Context, num_classes: int, ask: Ask = "once") -> None:
        frames, black_box = context.frames, context.black_box
        if black_box is None:
            raise ConfigError(f"{context.config.method} learns from a black box; give it one.")

        def asking() -> Callable[[int], Answer]:
            def label(frame: int) -> Answer:
                name, image = frames.names[frame], np.array(frames.image(frame))
                return answer_to(black_box, name, image, num_classes, ask)

            return label

        super().__init__(context.workspace.answers, context, num_classes, asking)
        black_box.close()


def answer_to(
    black_box: BlackBox, name: str, image: NDArray[np.uint8], num_classes: int, ask: Ask
) -> Answer:
    """Ask ``black_box`` about one frame, once or in four views; see `StoredAnswers`.

    Args:
        image: uint8 RGB (H, W, 3); the black box may write in it.

    Returns:
        float32 probabilities (K, h, w), or, asked once, uint8 class indices (h, w).

    Raises:
        LabelError: an answer is neither, or the views' answers differ in size.
    """
    if ask == "once" or not black_box.looks:
        return _asked(black_box, name, image, num_classes)
    return _mean_of_views(black_box, name, image, num_classes)


def _asked(black_box: BlackBox, name: str, image: NDArray[np.uint8], num_classes: int) -> Answer:
    answer = black_box.answer(name, image)
    return checked_answer(answer, num_classes, f"the answer to frame {name}")


def _mean_of_views(
    black_box: BlackBox, name: str, image: NDArray[np.uint8], num_classes: int
) -> Answer:
    """float32 (K, h, w); a pixel's sum is 1, or 0 where every view says that it is no class."""
    views = list(_of_views(black_box, name, image, num_classes))
    sizes = {f"{p.shape[2]}x{p.shape[1]}" for p in views}
    if len(sizes) > 1:
        raise LabelError(
            f"the four views of frame {name}: have the sizes {', '.join(sorted(sizes))}; "
            "answer images of one size with one size, or set ask=once."
        )
    total = np.sum(views, axis=0)
    mass = total.sum(axis=0)
    return np.asarray(total / np.where(mass > 0, mass, 1), np.float32)


def _of_views(
    black_box: BlackBox, name: str, image: NDArray[np.uint8], num_classes: int
) -> Iterator[Answer]:
    for seen in (image, stretched(image)):
        for mirror in (False, True):
            view = (seen[:, ::-1] if mirror else seen).copy()  # the black box may write in it
            p = _asked(black_box, name, view, num_classes)
            if p.ndim == 2:
                p = (p == np.arange(num_classes)[:, None, None]).astype(np.float32)
            yield p[..., ::-1] if mirror else p
