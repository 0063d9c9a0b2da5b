"""Quality of an engine's labels: agreement with a reference, mIoU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..engines import Engine
from ..errors import LabelError
from ..frames import Frame
from ..labels.metrics import label_agreement
from ..words import counted
from .evaluation import check_truths, confusion_through


def quality(
    engine: Engine,
    frames: Sequence[Frame],
    labels: Sequence[NDArray[np.uint8]] | None,
    reference: Engine | Sequence[NDArray[np.uint8]] | None,
) -> dict[str, float | None]:
    """ "label_agreement" with the reference and "miou" over the frames, each once; or None.

    Raises:
        LabelError: there are fewer label maps than frames, or one does not fit its frame.
    """
    if labels is not None and len(labels) < len(frames):
        raise LabelError(
            f"There are {counted(len(labels), 'label map')} for "
            f"{counted(len(frames), 'frame')}; give one for each."
        )
    predictions = [engine.segment(frame) for frame in frames]
    agreement = miou = None
    if isinstance(reference, Engine):
        reference = [reference.segment(frame) for frame in frames]
    if reference is not None:
        percents = [label_agreement(p, r) for p, r in zip(predictions, reference, strict=True)]
        agreement = float(np.average(percents, weights=[p.size for p in predictions]))
    if labels is not None:
        own = engine.label_space.map_to(engine.label_space)
        confusion = confusion_through(own)
        for frame, prediction, truth in zip(frames, predictions, labels, strict=False):
            if truth.shape != prediction.shape:
                raise LabelError(
                    f"The labels of {frame.name} are {truth.shape[1]}x{truth.shape[0]} and the "
                    f"frame is {prediction.shape[1]}x{prediction.shape[0]}; they must be equal."
                )
            confusion.update(own.apply(prediction), truth)
        check_truths(confusion, engine.label_space)
        miou = confusion.miou()
    return {"label_agreement": agreement, "miou": miou}
