"""The folder of collected frames: within its budget at every moment, and whole after any kill.

A frame's file appears complete or not at all, and is all that counts: the index beside it is a copy
of what the files say of themselves, written every so often so that a start is quick. Whatever it
lacks, or says of files that are gone, is put right from the files.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic import lock_folder, output_error, output_errors, replacing
from ..closing import Closing
from ..errors import ConfigError, OutputError, Sentence, arg
from ..given import above_zero
from ..notes import log_note
from ..regular_files import read_regular_file
from ..words import counted
from .frame_files import KeptFrame, drive_number, encode_frame, is_frame_name, read_frame_file
from .reservoir import MOST, Reservoir

INDEX = ".collect.index"
LEAST_BUDGET = 10**6  # bytes
_UNFINISHED = ".collect.part"  # always the same, so that what a kill left is written over
_LARGEST_INDEX = 1 << 28  # bytes
_BLOCK = 4096  # bytes that file systems give a file at a time
_OF_FOLDER = 128  # bytes that a file's name takes in its folder
_OVERHEAD = 4 * _BLOCK  # the folder and the index, when they are empty
_ABOUT_A_FRAME = 1 << 20  # bytes
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MOST_EVICTED = 8  # for the sake of one frame, on a disk that is full before the budget is


class FrameStore(Closing):
    """Frames kept in a folder, which is locked meanwhile.

    Args:
        folder: made if it is not there.
        budget: bytes on the disk, the index and whatever is being written included.
        keep_free: share of the whole disk, 0 to 1; while less is free, a frame is kept only in the
            place of others.
        note: told of what was found and removed.

    Attributes:
        frames: what is kept, by name of its file.
        reservoir: the same by slot, with what is worth least.
        counts: of what happened in all drives, as the index holds them.

    Raises:
        OutputError: the folder cannot be made or written, holds other things, or another collector
            writes into it.
        ConfigError: the budget holds no frame.
    """

    def __init__(
        self,
        folder: Path,
        budget: int,
        *,
        keep_free: float = 0.0,
        note: Callable[[str], None] = log_note,
    ) -> None:
        above_zero("budget", budget)
        if budget < LEAST_BUDGET:
            raise ConfigError(f"{arg('budget')}: {budget} bytes hold no frames; give 1MB or more.")
        self.folder, self.budget = folder, budget
        self._keep_free, self._note = keep_free, note
        self.reservoir = Reservoir()
        self.frames: dict[str, KeptFrame] = {}
        self._lines: dict[str, bytes] = {}
        with output_errors(folder):
            folder.mkdir(exist_ok=True)
        self._lock = lock_folder(folder)
        try:
            with output_errors(folder):
                (folder / _UNFINISHED).unlink(missing_ok=True)
                found, self.counts, cut = read_store(folder)
                for name in cut:
                    (folder / name).unlink(missing_ok=True)
            if cut:
                self._note(f"{folder}: removed {counted(len(cut), 'file')} that had been cut short")
            for frame in found:
                self._take_in(frame)
            while self.used > budget or len(self.reservoir) > MOST:
                self.evict()
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def used(self) -> int:
        """Bytes on the disk, with the index while it is replaced."""
        return self.reservoir.total + _OVERHEAD

    @staticmethod
    def used_by(frames: Iterable[KeptFrame]) -> int:
        """Bytes as in `used`, of a store with these frames."""
        return _OVERHEAD + sum(_on_disk(frame.size, len(frame.line())) for frame in frames)

    @property
    def next_drive(self) -> int:
        """The number of the next drive."""
        last = max((drive_number(name) for name in self.frames), default=0)
        return max(last, self.counts.get("drives", 0)) + 1

    def has_room(self, size: int) -> bool:
        """Tell whether a file of so many bytes can be added without taking another out."""
        return self._fits(_on_disk(size, 512)) and self.is_free(size)

    def is_short(self, size: int) -> bool:
        """Tell whether the disk alone leaves no room for so many bytes: the budget would."""
        return self._fits(_on_disk(size, 512)) and not self.is_free(size)

    def is_free(self, size: int) -> bool:
        """Tell whether the disk has so many bytes beside the share that stays free."""
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize - size >= self._keep_free * (
            disk.f_blocks * disk.f_frsize
        )

    @property
    def shortage(self) -> str:
        """A sentence on why the folder has no room below its budget."""
        full, advice = "the disk is full", "free some of it"
        if self._keep_free and not self.is_free(_ABOUT_A_FRAME):
            full = f"less than {100 * self._keep_free:g}% of the disk is free"
            advice += f", or give a smaller {arg('keep_free')}"
        kept = "frames are kept in the place of others alone"
        if not len(self.reservoir):
            kept = "no frame is kept until it has room"
        return Sentence(f"{self.folder}: {full}, and {kept}; {advice}.")

    def put(self, image: NDArray[np.uint8], frame: KeptFrame) -> bool:
        """Write a frame, (H, W, 3) uint8 RGB, and take out what is worth least for its sake.

        Returns:
            False where the disk is too full for it, whatever was taken out.

        Raises:
            OutputError: the folder cannot be written for another reason.
        """
        if not len(self.reservoir) and not self.is_free(0):
            return False  # nothing to take out: it need not be encoded to know that
        data = encode_frame(image, frame)
        frame = KeptFrame(
            frame.name, len(data), frame.time_s, frame.weight, frame.descriptor, frame.classes
        )
        size = _on_disk(frame.size, len(frame.line()))
        if size > self.budget - _OVERHEAD:
            return False
        while len(self.reservoir) and not self._fits(size):
            self.evict()
        freed = 0
        while len(self.reservoir) and freed < size and not self.is_free(size - freed):
            freed += self.evict()
        if not self.is_free(size - freed) and freed < size:
            return False
        return self._write(frame, data)

    def _fits(self, size: int) -> bool:
        return self.used + size <= self.budget and len(self.reservoir) < MOST

    def _write(self, frame: KeptFrame, data: bytes) -> bool:
        path = self.folder / frame.name
        for _ in range(_MOST_EVICTED):
            if self._try_to_write(path, data):
                self._take_in(frame)
                return True
            if not len(self.reservoir):
                return False
            self.evict()
        return False

    @staticmethod
    def _try_to_write(path: Path, data: bytes) -> bool:
        """Write a file whole; False where the disk is full."""
        try:
            with replacing(path, _UNFINISHED) as file:
                file.write(data)
        except OSError as error:
            if error.errno not in _FULL:
                raise output_error(error, path) from error
            return False
        return True

    def _take_in(self, frame: KeptFrame) -> None:
        line = frame.line()
        when_s = overall_s(drive_number(frame.name), frame.time_s)
        differences = self.reservoir.differences(frame.descriptor)
        self.reservoir.add(
            frame.name,
            _on_disk(frame.size, len(line)),
            frame.descriptor,
            when_s,
            frame.weight,
            self.reservoir.distances(differences, when_s),
        )
        self.frames[frame.name], self._lines[frame.name] = frame, line

    def evict(self) -> int:
        """Delete the frame that is worth least; the bytes that this gave back."""
        slot, _ = self.reservoir.worth_least()
        name, size = self.reservoir.names[slot], self.reservoir.sizes[slot]
        with output_errors(self.folder / name):
            (self.folder / name).unlink(missing_ok=True)
        self.reservoir.remove(slot)
        del self.frames[name], self._lines[name]
        self.counts["evicted"] = self.counts.get("evicted", 0) + 1
        return size

    def write_index(self) -> bool:
        """Write the index anew; False, and the old one stays, where the disk is full."""
        head = json.dumps({"version": 1, "counts": self.counts, "budget": self.budget})
        lines = (head.encode() + b"\n", *self._lines.values())
        return self._try_to_write(self.folder / INDEX, b"".join(lines))

    def close(self) -> None:
        """Write the index and give the folder back."""
        try:
            self.write_index()
        finally:
            os.close(self._lock)


def overall_s(drive: int, time_s: float) -> float:
    """A time in a drive as one of all drives, which are far from one another."""
    return drive * 1e8 + time_s


def _on_disk(size: int, line: int) -> int:
    """Bytes that a file takes with its name, and its line in an index and in the one after it."""
    return -(-size // _BLOCK) * _BLOCK + 2 * line + _OF_FOLDER


def read_store(folder: Path) -> tuple[list[KeptFrame], dict[str, int], list[str]]:
    """Frames in order of time, counts, and names of files that are cut; nothing is changed.

    Raises:
        OutputError: the folder holds other things and no frames.
        OSError: it cannot be listed or a file cannot be read.
    """
    sizes = {}
    others = []
    for entry in os.scandir(folder):
        if is_frame_name(entry.name):
            sizes[entry.name] = entry.stat().st_size
        elif not entry.name.startswith("."):
            others.append(entry.name)
    if others and not sizes and not (folder / INDEX).is_file():
        raise OutputError(
            f"{folder}: holds other things ({others[0]}) and no collected frames; give a new or an "
            "empty folder."
        )
    known, counts = read_index(folder)
    frames, cut = [], []
    for name, size in sorted(sizes.items()):
        frame = known.get(name)
        if frame is None or frame.size != size:
            try:
                frame = read_frame_file(folder / name)
            except FileNotFoundError:  # a collector at work took it out meanwhile
                continue
            except ValueError:
                cut.append(name)
                continue
        frames.append(frame)
    return frames, counts, cut


def read_index(folder: Path) -> tuple[dict[str, KeptFrame], dict[str, int]]:
    """As much of the index as there is: frames by name, and counts."""
    try:
        head, *lines = read_regular_file(folder / INDEX, _LARGEST_INDEX).splitlines() or [b""]
    except OSError:
        return {}, {}
    frames = {}
    for line in lines:
        with suppress(ValueError):  # the line that a cut went through
            frame = KeptFrame.from_record(json.loads(line))
            frames[frame.name] = frame
    return frames, _counts(head)


def _counts(head: bytes) -> dict[str, int]:
    try:
        found: Any = json.loads(head)["counts"]
        return {str(key): int(value) for key, value in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
