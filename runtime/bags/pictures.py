"""Pictures of a bag's camera, one after the other, with an account of what could not be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..pictures.white import SIXTEEN_BITS, TWELVE_BITS, white_of_one
from ..spacing import evenly_spaced
from ..video.video_file import LostFrames
from ..words import counted
from .bag import BagIndex, BagMessage
from .bag_file import BagFile
from .compressed import compressed_pixels
from .message_fields import RAW, VIDEO
from .messages import CameraMessage, is_video
from .pixels import raw_pixels
from .regions import BrokenBagError, ReadBuffer
from .video_stream import VideoStream, rgb_of

_Headers = dict[int, "CameraMessage | None"]
_LOOKED_AT = 8  # messages, for the white of a camera of 16 bits


@dataclass(frozen=True, slots=True)
class BagPicture:
    """A picture of a bag.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        number: of its message among the topic's, from 0.
        stamp_ns: of its header, or where that is 0 the time at which it was recorded.
        frame_id: of its header.
    """

    image: NDArray[np.uint8]
    number: int
    stamp_ns: int
    frame_id: str


class CameraTopic:
    """The pictures of one topic; iterable again and again.

    Args:
        index: of the bag.
        topic: with pictures.
        remark: called with a sentence on what is odd and was read all the same.
    """

    def __init__(
        self, index: BagIndex, topic: str, remark: Callable[[str], None] = lambda _: None
    ) -> None:
        self.index, self.topic = index, topic
        self._remark = remark
        self._messages = index.messages[topic]
        self._is_video = is_video(index.schemas[topic])
        self._white: int | None = None

    def __len__(self) -> int:
        """Messages, as the index has them: nothing is decoded for it."""
        return len(self._messages)

    def pictures(
        self, wanted: Callable[[int], bool] = lambda _: True
    ) -> Iterator[BagPicture | LostFrames]:
        """The pictures, and after them what was lost, if anything was.

        Args:
            wanted: asked with a message's number; those that are not wanted are not read, but for
                those of a video, of which each picture builds on the one before.
        """
        account = _MessageAccount(self)
        with self.index.opened() as files:
            stream: VideoStream | None = None
            converted = ReadBuffer()
            headers: _Headers = {}  # of messages of a video whose pictures are still to come
            for number, at in enumerate(self._messages):
                if not self._is_video and not wanted(number):
                    continue
                try:
                    message = self.index.read(files, at)
                    if message.kind != VIDEO:
                        yield self._picture(
                            number, at, message, self._rgb(message, files, converted)
                        )
                        account.good += 1
                        continue
                    headers[number] = message
                    stream = stream or VideoStream(message.encoding)
                    decoded = stream.decode(number, message.data)
                    for picture in self._decoded(decoded, headers, wanted):
                        yield picture
                        account.good += 1
                except BrokenBagError as error:
                    headers[number] = headers.pop(number, None)
                    account.bad(headers, str(error))
            if stream is not None:
                clause = "FFmpeg gave no picture for it"
                try:
                    for picture in self._decoded(stream.rest(), headers, wanted):
                        yield picture
                        account.good += 1
                except BrokenBagError as error:
                    clause = str(error)
                account.bad(headers, clause)
        yield from account.losses()

    def _decoded(
        self,
        frames: Iterator[tuple[int, Any]],
        headers: _Headers,
        wanted: Callable[[int], bool],
    ) -> Iterator[BagPicture]:
        """Those of a video's decoded pictures that are wanted."""
        for number, frame in frames:
            header = headers.pop(number, None)
            if header is not None and wanted(number):
                yield self._picture(number, self._messages[number], header, rgb_of(frame))

    def _picture(
        self, number: int, at: BagMessage, message: CameraMessage, image: NDArray[np.uint8]
    ) -> BagPicture:
        stamp_ns = message.stamp_ns
        if stamp_ns == 0:
            stamp_ns = at.place.log_ns
            self._remark(
                f"{self.index.path}: messages of {self.topic} have no time in their header; the "
                "times at which they were recorded are taken."
            )
        return BagPicture(image, number, stamp_ns, message.frame_id)

    def _rgb(
        self, message: CameraMessage, files: list[BagFile | None], buffer: ReadBuffer
    ) -> NDArray[np.uint8]:
        is_raw = message.kind == RAW
        pixels = raw_pixels(message, buffer) if is_raw else compressed_pixels(message)
        if pixels.dtype == np.uint8:
            return pixels
        white = self._white_of(files)
        return np.asarray(cv2.convertScaleAbs(pixels, alpha=255 / white), np.uint8)

    def _white_of(self, files: list[BagFile | None]) -> int:
        """White of a camera of 16 bits, as a few of its pictures tell, see `pictures.white`."""
        if self._white is None:
            brightest = max(self._brightest(files, at) for at in self._some())
            self._white = white_of_one(brightest) if brightest else SIXTEEN_BITS
            if self._white == TWELVE_BITS:
                self._remark(
                    f"{self.index.path}: pictures of {self.topic} have 16 bits a channel and no "
                    f"value above {brightest}: their values are taken as the twelve bits of a "
                    f"camera, {TWELVE_BITS} is white."
                )
        return self._white

    def _some(self) -> list[BagMessage]:
        """Evenly spaced messages."""
        places = evenly_spaced(len(self._messages), _LOOKED_AT)
        return [self._messages[place] for place in places]

    def _brightest(self, files: list[BagFile | None], at: BagMessage) -> int:
        try:
            message = self.index.read(files, at)
            read = raw_pixels if message.kind == RAW else compressed_pixels
            pixels = read(message)
        except BrokenBagError:  # it is reported where it is read as a frame
            return 0
        return int(pixels.max()) if pixels.dtype == np.uint16 else SIXTEEN_BITS


class _MessageAccount:
    """The messages read, to say at the end what is lost."""

    def __init__(self, topic: CameraTopic) -> None:
        self._topic = topic
        self.good = 0
        self._bad = 0
        self._first = (0, "")

    def bad(self, numbers: dict[int, Any], clause: str) -> None:
        """Count messages that cannot be read, and take them out of ``numbers``."""
        if numbers:
            self._first = self._first if self._bad else (min(numbers), clause)
            self._bad += len(numbers)
            numbers.clear()

    def losses(self) -> Iterator[LostFrames]:
        """Sentences on the messages that were left out, and on damage of the bag's files."""
        index, topic = self._topic.index, self._topic.topic
        if self._bad:
            number, clause = self._first
            are = "is" if self._bad == 1 else "are"
            first = "" if self._bad == 1 else "the first of them, "
            yield LostFrames(
                f"{index.path}: {self._bad} of {counted(len(self._topic), 'message')} of {topic} "
                f"cannot be read and {are} left out, {first}number {number}: {clause}.",
                self._bad,
            )
        for path, clause in index.damage:
            yield LostFrames(
                f"{path} is damaged: {clause}; {counted(self.good, 'picture')} of {topic} "
                f"{'was' if self.good == 1 else 'were'} read, and what lies behind may be missing.",
                0,
            )
