"""A frozen teacher's logits of every whole frame, on disk: one forward pass a frame and run.

Kept at network resolution in float16. A crop, mirrored or not, is a window of its frame's logits; a
network that sees all of the image answers a little differently to the crop alone.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.atomic import output_errors
from ...runtime.errors import OutputError, arg
from ...runtime.words import counted
from ..data.context import Context
from ..data.dataset import Batch
from ..losses.backends.spec import Map
from ..networks import SegmentationNetwork
from ..run.checkpoint import write_atomically
from ..run.checksums import (
    DamagedError,
    file_hash,
    read_json_with_checksum,
    write_json_with_checksum,
)
from ..run.work import OutOfTimeError


class LogitCache:
    """``maps(batch)`` in place of a forward pass of ``teacher`` on the clean crops.

    What an earlier start of the same run wrote whole is taken up.

    Raises:
        OutputError: the disk has no room for it, or cannot be written.
        OutOfTimeError: see `open_cache`.
    """

    def __init__(self, teacher: SegmentationNetwork, context: Context) -> None:
        self.context, place = context, context.workspace
        self._path, self._index = place.teacher_logits, place.teacher_index
        shape = self._written()
        if shape is None:
            shape = self._write(teacher)
        self._logits: NDArray[np.float16] = np.memmap(
            self._path, dtype=np.float16, mode="r", shape=shape
        )

    def _written(self) -> tuple[int, ...] | None:
        """The shape of what an earlier start wrote whole."""
        if not self._index.exists():
            return None
        try:
            record = read_json_with_checksum(self._index)
            if file_hash(self._path) != record["content"]:
                raise DamagedError("its content and its SHA-256 differ")
        except (OSError, DamagedError, KeyError) as error:
            self.context.note(f"{self._path}: damaged ({error}), so it is made again")
            return None
        return tuple(record["shape"])

    def _write(self, teacher: SegmentationNetwork) -> tuple[int, ...]:
        self._index.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)  # its room counts as free
        frames, answers = len(self.context.frames), self._answers(teacher)
        first = next(answers, None)
        if first is None:
            raise OutOfTimeError
        shape = (frames, *first.shape[1:])
        size = 2 * math.prod(shape)
        self.context.note(
            f"teacher cache: {size / 2**20:,.0f} MiB on disk, {counted(frames, 'frame')} of "
            f"{shape[1]}x{shape[2]}x{shape[3]} logits in float16"
        )
        with output_errors(self._path):
            free = shutil.disk_usage(self._path.parent).free
            if size > free:
                raise OutputError(
                    f"{self._path}: the teacher cache takes {size / 2**30:.1f} GiB and the disk "
                    f"has {free / 2**30:.1f} GiB left; set teacher_cache=false, or use fewer "
                    f"frames ({arg('max_frames')})."
                )
            digest = hashlib.sha256()
            with self._path.open("wb") as file:
                for logits in chain([first], answers):
                    part = _half(logits)
                    digest.update(part)
                    file.write(part)
                if file.tell() != size:
                    raise OutOfTimeError
                file.flush()
                os.fsync(file.fileno())
            record = {"shape": shape, "content": digest.hexdigest()}
            write_json_with_checksum(self._index, record)  # now it is whole
        return shape

    def _answers(self, teacher: SegmentationNetwork) -> Iterator[Tensor]:
        with torch.no_grad():
            for clean in self.context.whole_frames("filling the teacher cache", in_order=True):
                yield teacher(clean).logits

    def maps(self, batch: Batch) -> Map:
        """Logits of the batch's frames, float16 (B, K, h, w), and where its crops lie in them."""
        logits = torch.from_numpy(np.stack([self._logits[frame] for frame in batch.frames]))
        return Map(logits.to(self.context.device), self.context.windows(batch.crops))


def open_cache(teacher: SegmentationNetwork, context: Context) -> LogitCache | None:
    """A `LogitCache`, or None where the time budget does not suffice to fill it.

    A resumed run does as the first start did.
    """
    skipped = context.workspace.no_teacher_logits
    if skipped.exists():
        return None
    try:
        return LogitCache(teacher, context)
    except OutOfTimeError:
        context.note("no teacher cache: the time budget does not suffice to fill it")
        context.workspace.teacher_logits.unlink(missing_ok=True)
        write_atomically(skipped, b"")
        return None


def _half(logits: Tensor) -> bytes:
    limit = torch.finfo(torch.float16).max
    return logits.float().clamp(-limit, limit).half().cpu().numpy().tobytes()
