"""Frames of a drive that are worth keeping, chosen one by one as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from ..closing import Closing
from ..errors import RoadshiftError
from ..frames import Frame
from ..notes import log_note
from .appearance import Appearance, Vector, appearance
from .cpu_share import CpuShare, step_back
from .frame_files import KeptFrame, drive_name, frame_name
from .interest import Interest
from .store import FrameStore, overall_s

NEARLY_THE_SAME = 0.05  # distance of two descriptors of one place, a step apart, in other light
BLURRED = 1.0  # sharpness below the drive's median by so much: half the fine detail is gone
INDEX_EVERY_S = 300.0
BETTER = 1.1  # times the value of the frame that it would replace; writing wears flash out
_MEDIAN_STEP = 0.02
_STILLS_S = 0.1  # between frames that do not say when they were taken
_ROOM_AGAIN = 100  # frames; where one is taken out for each new one, there is always room for a few
_ANOTHER_CLOCK_S = 30 * 86400.0  # a longer step leads from times that begin at 0 to stamps

KEPT = "kept"
REASONS = {
    "standing_still": "the same picture as the last one kept",
    "near_duplicate": "nearly the same as an earlier one",
    "less_new": "less new than all that is kept",
    "blurred": "blurred",
    "dark": "without light",
    "flat": "without contrast",
    "no_time": "came while there was no time",
    "disk_full": "for lack of room on the disk",
}


class Collector(Closing):
    """A choice of frames for a store; `consider` decides at once, `offer` beside the caller.

    Args:
        store: closed with the collector.
        cpu_share: of one core, for the frames that are offered; those that come while it is used
            up are left out.
        began: when the drive began; now, unless given.
        note: told once when the disk is too full for more, though the budget is not, and when it
            has room again.

    Attributes:
        counts: frames of this drive by `KEPT` and `REASONS`, and "frames", all of them.
    """

    def __init__(
        self,
        store: FrameStore,
        *,
        cpu_share: float = 0.25,
        began: datetime | None = None,
        note: Callable[[str], None] = log_note,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = dict.fromkeys(("frames", KEPT, *REASONS), 0)
        self._store, self._note, self._clock = store, note, clock
        self._number = store.next_drive
        store.counts["drives"] = self._number
        self._drive = drive_name(self._number, began or datetime.now(timezone.utc))
        self._interest = Interest()
        for frame in store.frames.values():
            self._interest.known(frame.classes)
        self._time_s, self._before_ns = 0.0, 0
        self._median: float | None = None
        self._last_kept: Vector | None = None
        self._mean_size = 0.0
        self._disk_is_full = False
        self._indexed_at = clock()
        self._cpu_share = cpu_share
        self._waiting: tuple[Frame, NDArray[np.uint8] | None] | None = None
        self._changed = threading.Condition()
        self._ended = False
        self._error: RoadshiftError | None = None
        self._thread: threading.Thread | None = None

    # ---- beside the caller ----

    def offer(self, frame: Frame, labels: NDArray[np.uint8] | None = None) -> None:
        """Look at a frame in another thread, of low priority; returns at once.

        A frame that still waits when the next one is offered is left out.

        Args:
            labels: of the running model, (H, W), if there is one.

        Raises:
            OutputError: an earlier frame could not be written.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            if self._waiting is not None:
                self._count("no_time")
            self._waiting = frame, labels
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="collecting", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        step_back()
        share = CpuShare(self._cpu_share)
        try:
            while (taken := self._next()) is not None:
                if share.has_some():
                    self.consider(*taken)
                else:
                    self._count("no_time")
        except RoadshiftError as error:  # raised again by the next offer, or by close
            with self._changed:
                self._error = error

    def _next(self) -> tuple[Frame, NDArray[np.uint8] | None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._ended)
            taken, self._waiting = self._waiting, None
            return taken

    def close(self) -> None:
        """Finish with the frame that waits, write the index and give the folder back.

        Raises:
            OutputError: a frame or the index could not be written.
        """
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._store.close()
        if self._error is not None:
            raise self._error

    # ---- the choice ----

    def consider(self, frame: Frame, labels: NDArray[np.uint8] | None = None) -> str:
        """Keep a frame or leave it out; `KEPT`, or the reason among `REASONS`.

        Raises:
            OutputError: the folder cannot be written.
        """
        return self.choose(frame, appearance(frame.image), labels)

    def choose(
        self, frame: Frame, looks: Appearance, labels: NDArray[np.uint8] | None = None
    ) -> str:
        """`consider` for a frame whose looks are known."""
        self._advance(frame.timestamp_ns)
        outcome = self._decide(frame, looks, labels)
        self._count(outcome)
        if self._clock() - self._indexed_at >= INDEX_EVERY_S:
            self._indexed_at = self._clock()
            self._store.write_index()
        return outcome

    def _decide(self, frame: Frame, looks: Appearance, labels: NDArray[np.uint8] | None) -> str:
        if reason := self._worthless(looks):
            return reason
        reservoir = self._store.reservoir
        when_s = overall_s(self._number, self._time_s)
        difference, distance = reservoir.nearest(looks.descriptor, when_s)
        if difference < NEARLY_THE_SAME:
            return "near_duplicate"
        weight, classes = self._interest.of(labels)
        usual = round(self._mean_size)
        is_full = len(reservoir) > 0 and not self._store.has_room(usual)
        if is_full and self._store.is_short(usual):
            self._tell_of_disk(full=True)
        if is_full and weight * distance <= BETTER * reservoir.worth_least()[1]:
            return "less_new"
        time_s = self._time_s
        while (name := frame_name(self._drive, time_s)) in self._store.frames:
            time_s += 0.001  # files are named by milliseconds; those of a burst come closer
        kept = KeptFrame(name, 0, time_s, weight, looks.descriptor, classes)
        return self._keep(frame.image, kept)

    def _worthless(self, looks: Appearance) -> str | None:
        """The reason to leave a frame out that does not depend on all that is kept."""
        if looks.is_dark:
            return "dark"
        if looks.is_flat:
            return "flat"
        median = looks.sharpness if self._median is None else self._median
        self._median = median + _MEDIAN_STEP * float(np.sign(looks.sharpness - median))
        if looks.sharpness < median - BLURRED:
            return "blurred"
        last = self._last_kept
        if last is not None and np.linalg.norm(looks.descriptor - last) < NEARLY_THE_SAME:
            return "standing_still"
        return None

    def _keep(self, image: NDArray[np.uint8], kept: KeptFrame) -> str:
        if not self._store.put(image, kept):
            self._tell_of_disk(full=True)
            return "disk_full"
        size = self._store.frames[kept.name].size
        if self._disk_is_full and self._store.is_free(_ROOM_AGAIN * size):
            self._tell_of_disk(full=False)
        self._mean_size += (size - self._mean_size) / min(self.counts[KEPT] + 1, 100)
        self._last_kept = kept.descriptor
        return KEPT

    def _tell_of_disk(self, *, full: bool) -> None:
        if full != self._disk_is_full:
            self._disk_is_full = full
            again = f"{self._store.folder}: the disk has room again."
            self._note(self._store.shortage if full else again)

    def _advance(self, timestamp_ns: int) -> None:
        """Go on in the drive's time, over stills without times and from one clock to another."""
        step_s = (timestamp_ns - self._before_ns) / 1e9
        if self.counts["frames"]:
            self._time_s += step_s if 0 < step_s < _ANOTHER_CLOCK_S else _STILLS_S
        self._before_ns = timestamp_ns

    def _count(self, outcome: str) -> None:
        with self._changed:
            for key in ("frames", outcome):
                self.counts[key] += 1
                self._store.counts[key] = self._store.counts.get(key, 0) + 1
