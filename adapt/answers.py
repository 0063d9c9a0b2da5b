"""A black box's answers to the target frames: asked for once, and kept as `SoftLabels`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .black_box import Answer, checked_answer, open_black_box
from .context import Context
from .soft_labels import SoftLabels


class StoredAnswers(SoftLabels):
    """Answers to all frames of ``context``; a resumed run asks only for those it does not find.

    Args:
        source: see `open_black_box`.
        num_classes: K.

    Raises:
        RoadshiftError: the source cannot be opened, or gives an answer that is none.
    """

    def __init__(self, source: str, context: Context, num_classes: int) -> None:
        frames = context.frames

        def asking() -> Callable[[int], Answer]:
            black_box = open_black_box(source)

            def ask(frame: int) -> Answer:
                name = frames.names[frame]
                answer = black_box.answer(name, np.array(frames.image(frame)))
                return checked_answer(answer, num_classes, f"the answer to frame {name}")

            return ask

        super().__init__("answers", context, num_classes, asking)
