"""Frames to learn from: decoded once, drawn by step number, cropped in the background.

What step ``s`` sees depends on the seed and on ``s`` alone, never on what was drawn before: that is
what makes a resumed run the run that was never interrupted.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ...runtime.errors import FrameError, Sentence, arg
from ...runtime.frames import Frame, FrameSource, open_frames
from ...runtime.frames.images import read_frame_image
from ...runtime.frames.preprocess import fit_frame
from ...runtime.printable import encodable
from ...runtime.spacing import evenly_spaced
from ...runtime.video.damage_watch import DamageWatch
from ...runtime.words import counted
from ..run.config import AugmentConfig, TrainingConfig
from ..run.work import Work
from .augment import photometric
from .decoding import damaged_names, decoded, images_in_time
from .frame_cache import DecodedFrames, cached_images, read_cache, write_cache
from .frame_set import FrameSet, Image
from .streams import Streams
from .view_sizes import scaled_side

CACHE_LIMIT_BYTES = 8 * 2**30  # above it images are decoded when they are drawn
COUNTING = 0.3  # of the time to decode frames, to count those of a video before, at most


@dataclass(frozen=True)
class Crop:
    """A window of a fitted frame, in its pixels, mirrored left to right if ``flip``."""

    left: int
    top: int
    width: int
    height: int
    flip: bool


@dataclass(frozen=True)
class CropCondition:
    """A condition on crops, for whose sake one is drawn again."""

    of_frame: Callable[[int], Callable[[Crop], bool]]  # asked for in several threads
    draws: int  # at most, at least 1; the last one is taken as it is


@dataclass(frozen=True)
class Batch:
    """One (micro-)batch as a stage sees it. Images are uint8 (B, H, W, 3) RGB."""

    clean: Tensor
    augmented: Tensor  # the same pixels after photometric noise
    labels: Tensor | None  # ground truth, int64 (B, H, W); only when training a source model
    frames: tuple[int, ...]  # which frame each row was cropped from
    crops: tuple[Crop, ...]
    blocks: tuple[int, ...] = ()  # lengths of runs of rows that no pass crosses; (): all are one

    def passes(self, micro_batch: int) -> list[tuple[int, int]]:
        """First row and end of every forward pass: ``micro_batch`` rows, or nearly as many.

        All passes of a block have as many rows, or one fewer.
        """
        ranges, first = [], 0
        for length in self.blocks or (len(self.frames),):
            rows = np.arange(first, first + length)
            parts = np.array_split(rows, math.ceil(length / micro_batch))
            ranges += [(int(part[0]), int(part[-1]) + 1) for part in parts]
            first += length
        return ranges

    def part(self, start: int, stop: int) -> Batch:
        """Rows ``start`` to ``stop``, as one block."""
        labels = None if self.labels is None else self.labels[start:stop]
        return Batch(
            self.clean[start:stop],
            self.augmented[start:stop],
            labels,
            self.frames[start:stop],
            self.crops[start:stop],
        )

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        clean = self.clean.to(device, non_blocking=True)
        same = self.augmented is self.clean
        augmented = clean if same else self.augmented.to(device, non_blocking=True)
        return replace(self, clean=clean, augmented=augmented, labels=labels)


def target_frames(
    sources: Sequence[str | Path],
    width: int,
    height: int,
    workdir: Path,
    *,
    limit: int | None = None,
    work: Work | None = None,
) -> FrameSet:
    """Unlabelled frames of folders, images and videos, fitted to ``width`` x ``height``.

    Every frame is decoded once, here, into ``workdir/frames.rgb``, so that a damaged one is found
    before the first step and no step waits for a decoder. Those that a video's decoder gave with
    errors are left out (see `DamageWatch`). A run that is resumed finds the others there. Image
    folders too large for that (8 GiB) are decoded as they are drawn. Where ``work`` has too little
    time there are fewer: of images evenly spaced ones, of a video the first.

    Args:
        work: the deadline, and where decoding is shown.

    Raises:
        RunInterrupted: a signal came.
        FrameError: a source does not exist or holds no readable frame.
        OutputError: the disk cannot hold the frames.
    """
    work = work or Work()
    note = work.events.note
    wanted = {
        "sources": encodable([str(Path(source).resolve()) for source in sources]),
        "size": [width, height],
        "limit": limit,
    }
    found = read_cache(workdir, wanted, note)
    if found is not None:
        return cached_frames(workdir, found, width, height)
    opened = open_frames([str(source) for source in sources], on_skip=note)
    frames = thinned(opened, limit, work)
    stills = frames.stills if isinstance(frames, FrameSource) else None
    if stills is not None and len(stills) * width * height * 3 > CACHE_LIMIT_BYTES:
        note(f"{len(stills)} frames do not fit the frame cache: decoding them while training")
        return _decoded_when_drawn(stills, width, height)
    total = opened.length if limit is None or opened.length is None else min(limit, opened.length)
    if isinstance(frames, FrameSource) and stills is not None:
        total = len(stills)
        fewer = images_in_time(stills, width, height, work)
        if fewer is not None:
            total = min(fewer, total)
            note(
                f"decoding {total} of {counted(len(stills), 'frame')}, evenly spaced, for "
                "lack of time"
            )
            frames = frames.only(evenly_spaced(len(stills), fewer))
    with DamageWatch(note, treatment=", and these frames are left out") as watch:
        opened.watch = watch
        unfit = partial(damaged_names, opened, work)
        read = decoded(frames, total, work)
        found = write_cache(workdir, wanted, read, width, height, unfit)
    return cached_frames(workdir, found, width, height)


def cached_frames(workdir: Path, found: DecodedFrames, width: int, height: int) -> FrameSet:
    """The frames that a run's folder holds decoded."""
    images = cached_images(workdir, len(found.names), width, height)
    return FrameSet(found.names, width, height, images, stamps_ns=found.stamps_ns)


def thinned(
    source: FrameSource, limit: int | None, work: Work | None = None
) -> FrameSource | Iterator[Frame]:
    """At most ``limit`` of the frames, evenly spaced.

    Those of a video are its compressed pictures, where these can be counted without decoding it;
    else they are counted by decoding, and spaced over what the deadline's part has time for. Of a
    bag, messages in between are not read.

    Raises:
        RunInterrupted: a signal came while frames were counted.
    """
    work = work or Work()
    note = work.events.note
    stills = source.stills
    if stills is not None:
        chosen = evenly_spaced(len(stills), limit)
        if len(chosen) < len(stills):
            note(
                Sentence(
                    f"using {len(chosen)} of {counted(len(stills), 'frame')}, evenly spaced "
                    f"({arg('max_frames')})"
                )
            )
        return source.only(chosen)
    if limit is None:
        return iter(source)
    which = f"evenly spaced ones ({arg('max_frames')})"
    count = source.length
    if count is None:
        note(Sentence(f"counting the frames of the videos, to use {which}"))
        count = _count_in_time(source, work)
    keep = set(evenly_spaced(count, limit))
    if len(keep) < count:
        note(Sentence(f"using {len(keep)} of {counted(count, 'frame')}, {which}"))
    return source.at(keep)


def _count_in_time(source: FrameSource, work: Work) -> int:
    """The frames of videos, by decoding; fewer where time runs out, which is noted."""
    with work.phase("counting frames") as done, work.deadline.part(COUNTING):
        passed = iter(range(sys.maxsize))

        def go_on() -> bool:
            work.events.stop_if_requested()
            done(next(passed))
            return not work.deadline.due

        count = source.count(go_on)
        if work.deadline.due:
            work.events.note(
                f"counting frames: the first {counted(count, 'frame')}, for more the time budget "
                "leaves no time"
            )
    return count


def _decoded_when_drawn(stills: Sequence[tuple[Path, str]], width: int, height: int) -> FrameSet:
    def image(i: int) -> Image:
        return fit_frame(read_frame_image(stills[i][0]), width, height)

    return FrameSet([name for _, name in stills], width, height, image)


def resize_window(image: Image, crop: Crop, width: int, height: int, nearest: bool) -> Image:
    """The crop of ``image`` at ``width`` x ``height``; nearest neighbour for label maps."""
    window = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if (crop.width, crop.height) != (width, height):
        linear = cv2.INTER_AREA if crop.width > width else cv2.INTER_LINEAR
        how = cv2.INTER_NEAREST_EXACT if nearest else linear
        window = np.asarray(cv2.resize(window, (width, height), interpolation=how), np.uint8)
    return window[:, ::-1] if crop.flip else window


def _shrunk(size: tuple[int, int], share: float) -> tuple[int, int]:
    """``share`` of each side, at least 16 pixels, with the divisors that the side has."""
    if share == 1:
        return size
    width, height = (min(side, max(16, scaled_side(side, share))) for side in size)
    return width, height


class CropSampler:
    """Draws batch ``s`` of a run from ``(seed, s)``, from one stream of frames or several."""

    def __init__(
        self, frames: FrameSet, training: TrainingConfig, augment: AugmentConfig, seed: int
    ) -> None:
        self._frames, self._training, self._augment, self._seed = frames, training, augment, seed
        self._streams = Streams((range(len(frames)),))
        self._condition: CropCondition | None = None
        whole, share = (frames.width, frames.height), training.crop_share
        self.width, self.height = training.crop_size or _shrunk(whole, share)
        if self.width > frames.width or self.height > frames.height:
            raise FrameError(
                f"crop_size {self.width}x{self.height} is larger than the frames "
                f"({frames.width}x{frames.height}); lower crop_size or raise frame_size."
            )

    def draw_from(self, streams: Streams, condition: CropCondition | None = None) -> None:
        """Make batches of these frames alone, of crops that meet ``condition``."""
        self._streams, self._condition = streams, condition

    def batch(self, step: int) -> Batch:
        """Batch number ``step``, on the CPU."""
        size, streams = self._training.batch_size, self._streams
        rows = [self._row(stream, step * size + slot) for stream, slot in streams.rows(size)]
        clean = torch.from_numpy(np.stack([row[0] for row in rows]))
        plain = self._augment.policy == "none"
        augmented = clean if plain else torch.from_numpy(np.stack([row[1] for row in rows]))
        labels = None
        if self._frames.labels is not None:
            maps = [row[2] for row in rows if row[2] is not None]
            labels = torch.from_numpy(np.stack(maps)).long()
        numbers, crops = tuple(row[3] for row in rows), tuple(row[4] for row in rows)
        return Batch(clean, augmented, labels, numbers, crops, streams.blocks(size))

    def _row(self, stream: int, position: int) -> tuple[Image, Image, Image | None, int, Crop]:
        index, rng = self._streams.drawn(stream, position, self._seed)
        crop = self._crop(rng, index)
        image = self._frames.image(index)
        clean = resize_window(image, crop, self.width, self.height, False)
        if self._augment.before_crop:
            noisy = photometric(image, self._augment, rng)
            augmented = resize_window(noisy, crop, self.width, self.height, False)
        else:
            augmented = photometric(np.ascontiguousarray(clean), self._augment, rng)
        labels = None
        if self._frames.labels is not None:
            labels = resize_window(self._frames.labels(index), crop, self.width, self.height, True)
        return clean, augmented, labels, index, crop

    def _crop(self, rng: np.random.Generator, index: int) -> Crop:
        """A crop of frame number ``index``: one zoom, and places until the condition holds."""
        frames, condition = self._frames, self._condition
        smallest = max(self.width / frames.width, self.height / frames.height)
        values = self._training.scale_values
        drawn = rng.choice(values) if values else rng.uniform(*self._training.scale)
        zoom = max(float(drawn), smallest)
        width = min(frames.width, max(1, round(self.width / zoom)))
        height = min(frames.height, max(1, round(self.height / zoom)))
        holds = None if condition is None else condition.of_frame(index)
        for _ in range(1 if condition is None else condition.draws):
            left = int(rng.integers(frames.width - width + 1))
            top = int(rng.integers(frames.height - height + 1))
            crop = Crop(left, top, width, height, flip=False)
            if holds is None or holds(crop):
                break
        return replace(crop, flip=self._training.flip and bool(rng.integers(2)))


def in_batches(count: int, batch_size: int) -> list[range]:
    """The numbers below ``count``, ``batch_size`` at a time.

    A last one that would be alone joins the batch before: a batch of one is a poor sample, and
    where a network pools a whole frame it is none.
    """
    starts = list(range(0, count, batch_size))
    if batch_size > 1 and len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return [range(start, stop) for start, stop in itertools.pairwise([*starts, count])]


def stacked(frames: FrameSet, rows: Sequence[int]) -> Tensor:
    """The frames of these numbers, uint8 (B, H, W, 3), clean and uncropped."""
    return torch.from_numpy(np.stack([frames.image(i) for i in rows]))
