"""Pseudo-labels of whole frames, made once by a frozen model and kept on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.atomic import replacing
from ...runtime.errors import OutputError, arg
from ..data.context import Context
from ..data.dataset import Batch, Crop, resize_window
from ..data.frame_set import FrameSet, Image
from ..data.view_sizes import scaled_size, scales_taken
from ..losses.backends.labels import argmax_of_mean
from ..losses.backends.spec import Map, Window
from ..losses.backends.taps import upsample_map
from ..losses.common import IGNORED
from ..networks import SegmentationNetwork
from ..networks.modes import evaluating
from ..run.checksums import read_with_checksum, with_checksum
from .thresholds import BINS, ConfidenceHistograms, confidence_bins

SCALES = (1.0, 1.25, 0.75)


class PseudoLabels:
    """A folder with one PNG a frame: the class of every pixel, and how confident the model was.

    A PNG's channels hold the class (255: none) and the high and low byte of the confidence's bin
    (`confidence_bins`), at frame size. Compressed, with a checksum; written whole or not at all.

    Args:
        folder: of the PNGs.
        note: told of a damaged one.
    """

    def __init__(self, folder: Path, note: Callable[[str], None] = lambda _: None) -> None:
        self._folder, self._note = folder, note

    def path(self, frame: int) -> Path:
        """File of the labels of frame number ``frame``."""
        return self._folder / f"{frame:06d}.png"

    def read(self, frame: int) -> tuple[Image, NDArray[np.uint16]] | None:
        """Classes, uint8 (H, W), and bins, uint16 (H, W); ``None`` if missing or damaged."""
        stored = self._read(frame)
        return None if stored is None else _unpack(stored)

    def _read(self, frame: int) -> Image | None:
        content = read_with_checksum(self.path(frame), self._note)
        if content is None:
            return None
        stored = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        return np.asarray(stored, dtype=np.uint8)

    def write(self, frame: int, labels: Image, bins: NDArray[np.uint16]) -> None:
        """Store classes and bins, both (H, W)."""
        packed = np.stack([labels, bins >> 8, bins & 255], axis=2).astype(np.uint8)
        _, data = cv2.imencode(".png", packed)
        path = self.path(frame)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(path, f"{path.stem}.tmp", flushed=False) as file:
                file.write(with_checksum(data.tobytes()))
        except OSError as error:
            raise OutputError(
                f"{self._folder}: cannot store pseudo-labels ({error.strerror or error})."
            ) from error

    def remove(self) -> None:
        """Delete the folder, when newer labels take its place."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def histograms(self, num_classes: int, frames: Iterable[int]) -> ConfidenceHistograms:
        """Confidence histograms of all pixels of ``frames``, one frame in memory at a time."""
        histograms = ConfidenceHistograms(num_classes)
        for frame in frames:
            labels, bins = _unpack(self._there(frame))
            histograms.add(torch.from_numpy(labels), torch.from_numpy(bins.astype(np.int64)))
        return histograms

    def crops(self, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Classes and bins under the crops of ``batch``, each int64 (B, H, W)."""
        height, width = context.crop_size
        rows = [
            _unpack(resize_window(self._there(frame), crop, width, height, nearest=True))
            for frame, crop in zip(batch.frames, batch.crops, strict=True)
        ]
        labels, bins = (np.stack(part).astype(np.int64) for part in zip(*rows, strict=True))
        return (
            torch.from_numpy(labels).to(context.device),
            torch.from_numpy(bins).to(context.device),
        )

    def classes(self, frame: int) -> Image:
        """The classes of the whole frame of that number, uint8 (H, W)."""
        return _unpack(self._there(frame))[0]

    def _there(self, frame: int) -> Image:
        stored = self._read(frame)
        if stored is None:
            raise OutputError(
                f"{self.path(frame)}: the pseudo-label vanished or was damaged during the run; "
                f"start it again with {arg('resume', True)} and it is rebuilt."
            )
        return stored


def count_classes(classes: Image, crop: Crop, width: int, height: int) -> int:
    """Count the classes of a frame's ``classes`` in a crop that is seen at ``width`` x ``height``.

    Pixels without a label, 255, are of none.
    """
    window = resize_window(classes, crop, width, height, nearest=True)
    return int(np.count_nonzero(np.bincount(window.ravel(), minlength=256)[:IGNORED]))


def _unpack(stored: Image) -> tuple[Image, NDArray[np.uint16]]:
    bins = np.asarray((stored[..., 1].astype(np.uint16) << 8) | stored[..., 2], np.uint16)
    return np.ascontiguousarray(stored[..., 0]), bins


@torch.no_grad()
def multi_scale_probabilities(
    model: SegmentationNetwork,
    images: Tensor,
    scales: Sequence[float] = SCALES,
    *,
    mirror: bool = True,
) -> Tensor:
    """Softmax of ``model`` averaged over scales, and over the mirror image of each.

    Args:
        images: normalised, (B, 3, H, W).
        mirror: ``False`` leaves the mirror images out.

    Returns:
        (B, K, H, W), float32 or wider, summing to 1 over K.
    """
    size = (images.shape[2], images.shape[3])
    total, count = torch.zeros(()), 0
    for view in multi_scale_logits(model, images, scales, mirror=mirror):
        p = upsample_map(view, size, align_corners=model.align_corners).softmax(dim=1)
        total, count = total.to(p) + p, count + 1
    return total / count


@torch.no_grad()
def multi_scale_logits(
    model: SegmentationNetwork,
    images: Tensor,
    scales: Sequence[float] = SCALES,
    *,
    mirror: bool = True,
) -> Iterator[Map]:
    """Yield the logits that `multi_scale_probabilities` is the mean of, at network resolution."""
    height, width = images.shape[2:]
    mirrored = [Window(height, width, 0, 0, flip=True)] * len(images)
    for view, flipped in _views(images, scales, mirror):
        yield Map(model(view).logits, mirrored if flipped else None)


def _views(images: Tensor, scales: Sequence[float], mirror: bool) -> Iterator[tuple[Tensor, bool]]:
    for scale in scales:
        size = scaled_size(images.shape[2], images.shape[3], scale)
        view = images
        if scale != 1:
            view = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        yield view, False
        if mirror:
            yield view.flip(3), True


@torch.no_grad()
def frame_probabilities(
    model: SegmentationNetwork,
    context: Context,
    frame: int,
    scales: Sequence[float] = SCALES,
    *,
    mirror: bool = True,
    batch_statistics: bool = False,
) -> Tensor:
    """`multi_scale_probabilities` of the whole clean frame number ``frame``, (K, H, W).

    Args:
        model: left as it was.
        batch_statistics: batch norm normalises each view with its own mean and variance, not with
            the stored ones, as the authors' code of LD does.
    """
    with evaluating(model, own_statistics=batch_statistics):
        return multi_scale_probabilities(model, _clean(context, frame), scales, mirror=mirror)[0]


def _clean(context: Context, frame: int) -> Tensor:
    image = torch.from_numpy(np.array(context.frames.image(frame)))
    clean: Tensor = context.normalise(image[None].to(context.device))
    return clean


def passes_of(scales: Sequence[float], *, mirror: bool) -> float:
    """The number of forward passes of a whole frame that take about as long as its views."""
    return sum(scale**2 for scale in scales) * (2 if mirror else 1)


def usable_scales(
    model: SegmentationNetwork, context: Context, scales: Sequence[float]
) -> tuple[float, ...]:
    """Those of ``scales`` at which ``model`` answers, tried once; see `scales_taken`."""
    clean = _clean(context, 0)
    with evaluating(model):
        return scales_taken(model, clean, scales, context.note_once)


def label_frames(
    model: SegmentationNetwork,
    context: Context,
    scales: Sequence[float] = SCALES,
    *,
    mirror: bool = True,
    batch_statistics: bool = False,
) -> PseudoLabels:
    """Argmax and maximum of `frame_probabilities` for every frame, or as many as time allows.

    See `Context.prepare` for the latter. A resumed run finds those it made. They lie in a folder of
    their own for each model, frames and way of labelling, so that a run never takes up what an
    abandoned one with other settings left in the working folder.

    Source: the IAPC reference code, which labels the target set once, before training, with the
    source model.
    """
    identity = label_identity(model, context.frames, [*scales, mirror, batch_statistics])
    stored = PseudoLabels(context.workspace.of_teacher("pseudo_labels", identity), context.note)
    size = (context.frames.height, context.frames.width)
    taken: tuple[float, ...] = ()  # tried when there is a frame to label

    def label(i: int) -> None:
        nonlocal taken
        taken = taken or usable_scales(model, context, scales)
        with evaluating(model, own_statistics=batch_statistics):
            views = list(multi_scale_logits(model, _clean(context, i), taken, mirror=mirror))
        labels, confidence = argmax_of_mean(views, size, align_corners=model.align_corners)
        bins = confidence_bins(confidence).cpu().numpy().astype(np.uint16)
        stored.write(i, labels.to(torch.uint8).cpu().numpy(), bins)

    passes = passes_of(scales, mirror=mirror)
    context.prepare("labelling frames", lambda i: stored.read(i) is not None, label, passes)
    return stored


def selected(labels: Tensor, bins: Tensor, thresholds: Tensor) -> Tensor:
    """``labels`` where the confidence reaches its class's threshold, else 255.

    Args:
        labels, bins: as `PseudoLabels.crops` gives them.
        thresholds: bins, int64 (K,), see `ConfidenceHistograms.thresholds`.
    """
    needed = torch.cat([thresholds, thresholds.new_full((256 - len(thresholds),), BINS)])
    return torch.where(bins >= needed.to(labels.device)[labels], labels, IGNORED)


def label_identity(model: SegmentationNetwork, frames: FrameSet, how: Sequence[float]) -> str:
    """A name for what labels follow from: weights, which frames at what size, and how."""
    which = [frames.names, frames.width, frames.height, *how]
    digest = hashlib.sha256(json.dumps(which).encode())
    for tensor in model.state_dict().values():
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
