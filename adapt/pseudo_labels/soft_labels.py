"""Soft labels of the target frames, made once and kept compressed in the work folder.

Probabilities are kept in float16 at no more than a quarter of the frame's size along each axis,
where networks make them; class indices at the frame's size.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.atomic import output_errors
from ...runtime.errors import OutputError, arg
from ...runtime.frames.preprocess import restore_labels
from ..data.context import Context
from ..data.dataset import Batch, Crop, resize_window
from ..losses.backends.spec import Map
from ..run.checkpoint import write_atomically
from ..run.checksums import read_with_checksum, with_checksum
from ..run.work import OutOfTimeError

Labels = NDArray[Any]


class SoftLabels:
    """Distributions over classes, or classes, for every pixel of all frames of ``context``.

    What is there is taken up: a resumed run asks only for what it does not find. Where time runs
    out there are fewer, see `Context.prepare`.

    Args:
        folder: of the labels, a name of the context's workspace.
        context: frames, work folder, crop size.
        num_classes: K.
        source: called once, and only if a frame is missing; gives a function from a frame's number
            to float32 (K, h, w) that sums to 1 or uint8 (h, w), of any size.

    Raises:
        OutputError: they cannot be stored.
    """

    def __init__(
        self,
        folder: Path,
        context: Context,
        num_classes: int,
        source: Callable[[], Callable[[int], Labels]],
        passes: float = 1.0,
    ) -> None:
        self.context, self.num_classes = context, num_classes
        self._folder = folder
        missing = any(self._read(i) is None for i in context.prepared.of(len(context.frames)))
        if missing:
            with output_errors(self._folder):
                self._folder.mkdir(exist_ok=True)
            label = source()
            context.prepare(
                "labelling frames",
                lambda i: self._read(i) is not None,
                lambda i: self._write(i, label(i)),
                passes,
            )

    def class_mass(self) -> Tensor:
        """Share of the frames that belongs to each class, float32 (K,), summing to at most 1."""
        total = torch.zeros(self.num_classes)
        frames = self.context.prepared.of(len(self.context.frames))
        if not frames:
            raise OutOfTimeError
        for frame in frames:
            total += self.whole(frame).mean(dim=(1, 2))
        return total / len(frames)

    def whole(self, frame: int) -> Tensor:
        """Distributions of a frame as they are kept, float32 (K, h, w); see `crops`."""
        return self._whole(self._there(frame))

    def crops(self, batch: Batch) -> Tensor:
        """Distributions q under the crops of ``batch``, float32 (B, K, H, W).

        One-hot where the answer is a class, all zeros where it is none.
        """
        rows = []
        for frame, crop in zip(batch.frames, batch.crops, strict=True):
            label = self._there(frame)
            rows.append(self._soft(label, crop) if label.ndim == 3 else self._hard(label, crop))
        return torch.stack(rows).to(self.context.device)

    def targets(self, batch: Batch) -> Map | Tensor:
        """Soft labels under the crops: a map of distributions, float32 (B, K, h, w).

        Where some frame's answer is classes, or of another size, `crops`.
        """
        labels = [self._there(frame) for frame in batch.frames]
        if labels[0].ndim == 2 or len({label.shape for label in labels}) > 1:
            return self.crops(batch)
        values = torch.from_numpy(np.stack(labels)).to(self.context.device).float()
        return Map(values, self.context.windows(batch.crops), align_corners=False)

    def _there(self, frame: int) -> Labels:
        label = self._read(frame)
        if label is None:
            raise OutputError(
                f"{self._path(frame)}: the label vanished or was damaged during the run; start it "
                f"again with {arg('resume', True)} and it is made again."
            )
        return label

    def _path(self, frame: int) -> Path:
        return self._folder / f"{frame:06d}.npz"

    def _read(self, frame: int) -> Labels | None:
        content = read_with_checksum(self._path(frame), self.context.note)
        if content is None:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return np.asarray(arrays["answer"])

    def _write(self, frame: int, answer: Labels) -> None:
        frames = self.context.frames
        if answer.ndim == 2:
            stored: Labels = restore_labels(answer, frames.width, frames.height)
        else:
            stored = self._reduced(answer).astype(np.float16)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, answer=stored)
        write_atomically(self._path(frame), with_checksum(buffer.getvalue()))

    def _reduced(self, p: Labels) -> Labels:
        """At most a quarter of the frame's height and width, by area."""
        limits = (self.context.frames.height // 4, self.context.frames.width // 4)
        size = [min(side, limit) for side, limit in zip(p.shape[1:], limits, strict=True)]
        if tuple(size) == p.shape[1:]:
            return p
        return F.interpolate(torch.from_numpy(p)[None], size=size, mode="area")[0].numpy()

    def _soft(self, p: Labels, crop: Crop) -> Tensor:
        """The window of the crop at crop size, bilinear, (K, H, W)."""
        height, width = self.context.crop_size
        frames = self.context.frames
        across = crop.width / frames.width * (-1 if crop.flip else 1)
        down = crop.height / frames.height
        x = (2 * crop.left + crop.width) / frames.width - 1
        y = (2 * crop.top + crop.height) / frames.height - 1
        window = torch.tensor([[[across, 0.0, x], [0.0, down, y]]])
        grid = F.affine_grid(window, [1, 1, height, width], align_corners=False)
        return F.grid_sample(
            self._whole(p)[None], grid, padding_mode="border", align_corners=False
        )[0]

    def _hard(self, labels: Labels, crop: Crop) -> Tensor:
        """The window of the crop at crop size, nearest, one-hot (K, H, W)."""
        height, width = self.context.crop_size
        window = resize_window(labels, crop, width, height, nearest=True)
        return self._whole(window)

    def _whole(self, label: Labels) -> Tensor:
        """Soft labels as they are, classes one-hot; float32 (K, h, w)."""
        if label.ndim == 3:
            return torch.from_numpy(label.astype(np.float32))
        classes = torch.from_numpy(label.astype(np.int64)).clamp(max=self.num_classes)
        return F.one_hot(classes, self.num_classes + 1)[..., :-1].permute(2, 0, 1).float()
