"""Sink of results into an MCAP file, which appears whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..atomic import give_name, output_errors
from ..bags.mcap_file import McapFile
from ..bags.regions import BrokenBagError
from ..errors import OutputError
from ..file_names import check_name
from ..frames import Frame
from ..labels import LabelSpace
from ..notes import log_note
from ..part_file import PartFile, free_name
from .label_bag import LabelBag
from .overlay import overlay
from .pacing import STILLS_FPS
from .runner import Result

BAG_SUFFIX = ".mcap"
_NO_TOPIC = "/camera"  # of frames that no bag holds


class BagSink:
    """MCAP file of label maps, and of overlays, that gets its name on a good exit.

    Each result keeps the stamp and the frame id of its frame's message. Frames of videos have the
    time since the beginning instead, and images one period each; both go on from one file to the
    next. The topics are those of the camera with ``/labels``, ``/overlay/compressed`` and
    ``/label_info``, see `LabelBag`. Without a frame there is no bag.

    A run that fails leaves what was written as ``NAME.incomplete.mcap``; so does one that is
    killed, when the next run writes there.

    Args:
        fps: of images.
        replace: a bag that has appeared meanwhile is replaced.
        note: called with a sentence on what is left of a failed run.

    Raises:
        OutputError: the folder is missing or cannot be written, another run is writing this bag, or
            the disk is full.
        MissingDependencyError: there is no `mcap` or `rosbags`.
    """

    def __init__(
        self,
        path: Path,
        label_space: LabelSpace,
        *,
        overlays: bool,
        fps: float = STILLS_FPS,
        replace: bool = True,
        note: Callable[[str], None] = log_note,
    ) -> None:
        check_name(path, f".{{}}.part{BAG_SUFFIX}")
        self._path, self._space, self._overlays = path, label_space, overlays
        self._period_ns, self._note = round(1e9 / fps), note
        self._part = path.with_name(f".{path.name}.part{BAG_SUFFIX}")
        self._place = PartFile(path, self._part, "bag", replace=replace, keep=self._keep, note=note)
        self._before_ns: int | None = None  # time of the last frame that no bag holds
        self._due_ns = 0
        self._written = 0
        try:
            with output_errors(path):
                self._file = self._part.open("r+b")
            self._bag = LabelBag(self._file, path, label_space)
        except BaseException:
            self._place.let_go()
            raise

    def __call__(self, result: Result) -> None:
        frame, origin = result.frame, result.frame.origin
        picture = overlay(frame.image, result.labels, self._space) if self._overlays else None
        stamp_ns = self._time_of(frame) if origin is None else origin.stamp_ns
        topic, frame_id = (_NO_TOPIC, "") if origin is None else (origin.topic, origin.frame_id)
        with output_errors(self._path):
            self._bag.write(topic, frame_id, stamp_ns, result.labels, picture)
        self._written += 1

    def __enter__(self) -> BagSink:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            with suppress(OSError) if error is not None else output_errors(self._path):
                self._bag.finish()
                self._file.close()
            if error is None and self._written:
                self._place.publish()
            else:
                self._abandon()
        except OutputError as failure:
            kept = self._keep()
            if kept is None:
                raise
            raise OutputError(f"{failure} What was recorded is kept as {kept}.") from failure
        finally:
            with suppress(OSError):  # what waited to be written, on a full disk
                self._file.close()
            self._place.let_go()

    def _time_of(self, frame: Frame) -> int:
        """Nanoseconds since the first frame, of one that has no stamp."""
        if self._before_ns is not None:
            step_ns = frame.timestamp_ns - self._before_ns
            self._due_ns += step_ns if step_ns > 0 else self._period_ns
        self._before_ns = frame.timestamp_ns
        return self._due_ns

    def _abandon(self) -> None:
        kept = self._keep()
        if kept is not None:
            self._note(f"{self._path} was not finished; what there is of it is kept as {kept}.")

    def _keep(self) -> str | None:
        """Give what was written a visible name, which is returned; None where it is nothing."""
        try:
            file = McapFile(self._part)
            messages = sum(file.contents(()).counts.values())
            file.close()
        except (BrokenBagError, OSError):
            messages = 0
        if not messages:
            self._part.unlink(missing_ok=True)
            return None
        kept = free_name(self._path, "incomplete", BAG_SUFFIX)
        give_name(self._part, kept)
        return str(kept)
