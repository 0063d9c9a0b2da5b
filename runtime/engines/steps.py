"""Batches of any size through a model of a fixed one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .checks import BadAnswerError


def in_steps(
    run: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    batch: NDArray[np.uint8],
    size: int | None,
) -> NDArray[np.uint8]:
    """Labels, (B, h, w), of ``batch``, (B, H, W, 3), in steps of ``size`` frames, or all at once.

    The last step is filled with copies of the last frame.

    Raises:
        BadAnswerError: as ``run`` does; its frame is counted in the whole batch.
    """
    step = size or len(batch)
    parts = []
    for start in range(0, len(batch), step):
        part = np.ascontiguousarray(batch[start : start + step])
        kept = len(part)
        if kept < step:
            part = np.concatenate([part, np.repeat(part[-1:], step - kept, axis=0)])
        try:
            parts.append(run(part)[:kept])
        except BadAnswerError as error:
            frame = start + min(error.frame, kept - 1)
            raise BadAnswerError(error.problem, frame, error.advice) from error
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
