"""Quality of label maps: confusion matrix, IoU, mIoU and their bootstrap interval, in percent."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import LabelError, LabelSpaceError, ShapeError
from ..words import counted
from .spaces import LabelMap, LabelSpace


class ConfusionMatrix:
    """Pixel counts of truth against prediction, and what each frame contributed.

        IoU_c = TP_c / (TP_c + FP_c + FN_c),    mIoU = mean of IoU_c over the classes that occur

    over all labelled pixels of all frames together (Everingham et al., IJCV 2010, Sec. 4.1), as
    Cityscapes' own script computes them. A prediction of none of the K classes (`UNMAPPED`, see
    `correspondence`) is a false negative of the true class and a false positive of no class.

    Attributes:
        matrix: pixels of truth ``i`` predicted as ``j``, (K, K), int64.
        unmapped: pixels of truth ``i`` predicted as none of the K classes, (K,), int64.
        frames: how many frames were added.

    Args:
        num_classes: K.
        ignore_index: the index of a pixel that is not labelled.
        unmapped_index: the index, outside [0, K), of a prediction of none of the K classes; None:
            there are no such predictions, and one is an error.
    """

    def __init__(
        self, num_classes: int, ignore_index: int = 255, unmapped_index: int | None = None
    ) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.unmapped_index = unmapped_index
        self.matrix: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)
        self.unmapped: NDArray[np.int64] = np.zeros(num_classes, np.int64)
        self._frame_counts: list[NDArray[np.int64]] = []  # (3, K) each, see _counts

    @property
    def frames(self) -> int:
        return len(self._frame_counts)

    @property
    def labelled(self) -> int:
        """Labelled pixels of all frames."""
        return int(self.matrix.sum() + self.unmapped.sum())

    def update(self, prediction: NDArray[Any], labels: NDArray[Any]) -> None:
        """Add one frame.

        Args:
            prediction: class indices, (H, W), uint8, in [0, K) or ``unmapped_index`` wherever
                ``labels`` are in [0, K).
            labels: class indices or ``ignore_index``, (H, W), uint8.

        Raises:
            ShapeError: the two are not uint8 maps of one size.
            LabelError: ``labels`` hold an index outside [0, K) that is not ``ignore_index``.
            LabelSpaceError: ``prediction`` holds another index where there are labels.
        """
        _check_pair(prediction, labels)
        k = self.num_classes
        pairs = (labels.astype(np.intp) << 8) | prediction
        counts = np.bincount(pairs.ravel(), minlength=1 << 16).reshape(256, 256)
        found = np.flatnonzero(counts.any(axis=1)).tolist()
        unknown = [index for index in found if index >= k and index != self.ignore_index]
        if unknown:
            raise LabelError(
                f"labels hold class indices {unknown}, and there are {k} classes; "
                "encode them with the label space of the model first."
            )
        unmapped = np.zeros(k, np.int64)
        if self.unmapped_index is not None:
            unmapped = counts[:k, self.unmapped_index].copy()
            counts[:k, self.unmapped_index] = 0
        if counts[:k, k:].any():
            found = (np.flatnonzero(counts[:k, k:].any(axis=0)) + k).tolist()
            raise LabelSpaceError(
                f"the prediction holds class indices {found}, and there are {k} classes; the model "
                "and the labels need the same label space."
            )
        frame = counts[:k, :k]
        self.matrix += frame
        self.unmapped += unmapped
        self._frame_counts.append(_counts(frame, unmapped))

    def iou(self) -> NDArray[np.float64]:
        """IoU of each class, (K,), percent; nan for a class in neither truth nor prediction.

        Raises:
            LabelError: no pixel of any frame was labelled.
        """
        self._require_labels()
        return _iou(_counts(self.matrix, self.unmapped).astype(np.float64))

    def miou(self) -> float:
        """Mean IoU over the classes that occur, percent; LabelError as ``iou``."""
        return float(np.nanmean(self.iou()))

    def pixel_accuracy(self) -> float:
        """Share of labelled pixels with the right class, percent; LabelError as ``iou``."""
        self._require_labels()
        return float(100.0 * np.trace(self.matrix) / self.labelled)

    def confidence_interval(self, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """95 % percentile interval of mIoU, bootstrapped over frames.

        Frames are drawn with replacement (Efron, Annals of Statistics 1979). It takes frames for
        independent; those of one drive are not, and a true interval is then wider.

        Raises:
            LabelError: as ``iou``.
        """
        self._require_labels()
        n = self.frames
        draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
        per_frame = np.stack(self._frame_counts).reshape(n, -1).astype(np.float64)
        resampled = (draws.astype(np.float64) @ per_frame).reshape(resamples, 3, -1)
        labelled = resampled[:, 1].sum(axis=1) > 0  # a resample may draw unlabelled frames only
        mious = np.nanmean(_iou(resampled[labelled]), axis=-1)
        low, high = np.percentile(mious, [2.5, 97.5])
        return float(low), float(high)

    def _require_labels(self) -> None:
        if not self.labelled:
            raise LabelError(
                f"no pixel of the {counted(self.frames, 'frame')} is labelled, so there is "
                "nothing to measure; check that the labels belong to this label space."
            )


def label_agreement(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Share of pixels that two label maps of one shape agree on, percent.

    Raises:
        ShapeError: the shapes differ.
    """
    if a.shape != b.shape or a.size == 0:
        raise ShapeError(f"label_agreement: two label maps of one shape, got {a.shape}, {b.shape}.")
    return float(100.0 * np.count_nonzero(a == b) / a.size)


def evaluation_record(
    confusion: ConfusionMatrix, space: LabelSpace, engine: str, label_map: LabelMap | None = None
) -> dict[str, Any]:
    """Record of ``eval``, as JSON values: percent, and None for a class that does not occur.

    Args:
        confusion: of at least one labelled pixel.
        space: names the classes of ``confusion``.
        engine: what made the predictions.
        label_map: what the predictions went through; "label_map" in the record says so, unless
            each class stayed itself.

    Raises:
        LabelError: no pixel was labelled.
        LabelSpaceError: ``space`` has another number of classes.
    """
    if space.num_classes != confusion.num_classes:
        raise LabelSpaceError(
            f"label space {space.name!r} has {space.num_classes} classes and the confusion matrix "
            f"{confusion.num_classes}; use the label space of the model."
        )
    iou = confusion.iou().tolist()
    low, high = confusion.confidence_interval()
    return {
        "miou": confusion.miou(),
        "iou": {c: None if v != v else v for c, v in zip(space.classes, iou, strict=True)},
        "pixel_accuracy": confusion.pixel_accuracy(),
        "frames": confusion.frames,
        "ci95": [low, high],
        "engine": engine,
        **mapped_through(label_map),
    }


def mapped_through(label_map: LabelMap | None) -> dict[str, Any]:
    """The part "label_map" of a record or row; empty where each class stays itself."""
    if label_map is None or label_map.is_identity:
        return {}
    return {"label_map": label_map.record()}


def _counts(matrix: NDArray[np.int64], unmapped: NDArray[np.int64]) -> NDArray[np.int64]:
    """All that IoU needs of a confusion matrix: true positives, truths, predictions, (3, K)."""
    return np.stack([matrix.diagonal(), matrix.sum(axis=1) + unmapped, matrix.sum(axis=0)])


def _iou(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU in percent, (..., K), of counts (..., 3, K); nan where the union is empty."""
    hits, truths, predictions = counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]
    union = truths + predictions - hits
    return np.divide(100.0 * hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def _check_pair(prediction: NDArray[Any], labels: NDArray[Any]) -> None:
    for name, array in (("prediction", prediction), ("labels", labels)):
        if array.ndim != 2 or array.dtype != np.uint8:
            raise ShapeError(
                f"{name} must be (H, W) of uint8, got {array.shape} of {array.dtype}; for several "
                "frames, update once for each."
            )
    if prediction.shape != labels.shape:
        raise ShapeError(
            f"the prediction is {prediction.shape} and the labels are {labels.shape}; restore the "
            "prediction to the size of its frame first."
        )
