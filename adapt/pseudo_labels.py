"""Pseudo-labels of whole frames, made once by a frozen model and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime.errors import OutputError
from .context import Context
from .dataset import Batch, FrameSet, Image, resize_window
from .losses.common import upsample
from .networks import SegmentationNetwork

SCALES = (1.0, 1.25, 0.75)


class PseudoLabels:
    """A folder of label maps, one PNG a frame, class ids at frame size."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, frame: int) -> Path:
        """Where the label map of frame number ``frame`` lies."""
        return self._folder / f"{frame:06d}.png"

    def read(self, frame: int) -> Image | None:
        """uint8 (H, W), or ``None`` if it is missing or damaged."""
        labels = cv2.imread(str(self.path(frame)), cv2.IMREAD_UNCHANGED)
        return None if labels is None else np.asarray(labels, dtype=np.uint8)

    def write(self, frame: int, labels: Image) -> None:
        """Store uint8 (H, W) whole or not at all."""
        _, data = cv2.imencode(".png", labels)
        temporary = self.path(frame).with_suffix(".tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data.tobytes())
            temporary.replace(self.path(frame))
        except OSError as error:
            raise OutputError(
                f"{self._folder}: cannot store pseudo-labels ({error.strerror or error})."
            ) from error

    def crops(self, batch: Batch, context: Context) -> Tensor:
        """The labels under the crops of ``batch``, int64 (B, H, W)."""
        height, width = context.crop_size
        rows = []
        for frame, crop in zip(batch.frames, batch.crops, strict=True):
            labels = self.read(frame)
            if labels is None:
                raise OutputError(
                    f"{self.path(frame)}: the pseudo-label vanished during the run; start it again "
                    "with --resume and it is rebuilt."
                )
            rows.append(resize_window(labels, crop, width, height, nearest=True))
        return torch.from_numpy(np.stack(rows)).long().to(context.device)


@torch.no_grad()
def multi_scale_probabilities(
    model: SegmentationNetwork, images: Tensor, scales: Sequence[float] = SCALES
) -> Tensor:
    """Softmax of ``model`` averaged over scales and a mirror image.

    Args:
        images: normalised, (B, 3, H, W).

    Returns:
        (B, K, H, W), float32 or wider, summing to 1 over K.
    """
    size = (images.shape[2], images.shape[3])
    total = torch.zeros(())
    for view, mirrored in _views(images, scales):
        logits = upsample(model(view).logits, size, model.align_corners)
        p = logits.softmax(dim=1)
        total = total.to(p) + (p.flip(3) if mirrored else p)
    return total / (2 * len(scales))


def _views(images: Tensor, scales: Sequence[float]) -> Iterator[tuple[Tensor, bool]]:
    for scale in scales:
        size = tuple(max(1, round(side * scale)) for side in images.shape[2:])
        view = images
        if scale != 1:
            view = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        yield view, False
        yield view.flip(3), True


def multi_scale_labels(model: SegmentationNetwork, context: Context) -> PseudoLabels:
    """Argmax of `multi_scale_probabilities` for every frame; a resumed run finds those it made.

    They lie in a folder of their own for each model and frames, so that a run never takes up what
    an abandoned one with other settings left in the working folder.

    Source: the IAPC reference code, which labels the target set once, before training, with the
    source model.
    """
    identity = _identity(model, context.frames)
    stored = PseudoLabels(context.workdir / f"pseudo_labels-{identity}")
    model.eval()
    for i in range(len(context.frames)):
        if stored.read(i) is None:
            context.stop_if_requested()
            image = torch.from_numpy(np.array(context.frames.image(i)))
            clean = context.normalise(image[None].to(context.device))
            labels = multi_scale_probabilities(model, clean).argmax(dim=1)[0]
            stored.write(i, labels.to(torch.uint8).cpu().numpy())
    return stored


def _identity(model: SegmentationNetwork, frames: FrameSet) -> str:
    """A name for what the labels follow from: the weights, and which frames at what size."""
    which = [frames.names, frames.width, frames.height]
    digest = hashlib.sha256(json.dumps(which).encode())
    for tensor in model.state_dict().values():
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
