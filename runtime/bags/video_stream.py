"""Video in camera messages, one picture a message, decoded by FFmpeg as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pictures.picture_size import pixel_limit, too_large
from .chunks import bags_package
from .regions import BrokenBagError

# Per codec: FFmpeg's name, and the kinds of units with which decoding can begin. They are those of
# ITU-T H.264, table 7-1 (an IDR picture), and of H.265, table 7-1 (the IRAP pictures).
_CODECS = {
    **dict.fromkeys(("h264", "avc"), ("h264", frozenset({5}))),
    **dict.fromkeys(("h265", "hevc"), ("hevc", frozenset(range(16, 22)))),
}
_START = b"\0\0\1"


class VideoStream:
    """Pictures of one stream of messages, in order.

    Nothing is given before a key picture; nor is it after a damaged message, up to the next one:
    a decoder repeats or smears what it lacks.

    Args:
        format: that the messages state, "h264" or "h265".

    Raises:
        BrokenBagError: another format.
        MissingDependencyError: there is no PyAV.
    """

    def __init__(self, format: str) -> None:
        if format.strip().lower() not in _CODECS:
            raise BrokenBagError(f"video in {format[:40]!r} is not read here")
        self._name, self._key_units = _CODECS[format.strip().lower()]
        self._av = bags_package("av", "video in a bag")
        self._context = self._opened()
        self._has_key = False

    def decode(self, number: int, data: memoryview) -> Iterator[tuple[int, Any]]:
        """Numbers and decoded frames that a message completes; of earlier messages too.

        Raises:
            BrokenBagError: it is damaged, or comes before a key picture.
        """
        content = bytes(data)
        if not self._has_key:
            if not self._begins(content):
                raise BrokenBagError("it comes before a key picture")
            self._context, self._has_key = self._opened(), True
        packet = self._av.Packet(content)
        packet.pts = number
        yield from self._decoded(packet)

    def rest(self) -> Iterator[tuple[int, Any]]:
        """Numbers and frames that the decoder held back."""
        if self._has_key:
            yield from self._decoded(None)

    def _opened(self) -> Any:
        context = self._av.CodecContext.create(self._name, "r")
        context.thread_count = 1
        context.options = {"max_pixels": str(int(pixel_limit()))}
        return context

    def _decoded(self, packet: Any) -> Iterator[tuple[int, Any]]:
        try:
            frames = self._context.decode(packet)
        except self._av.error.FFmpegError as error:
            self._has_key = False
            raise BrokenBagError(f"FFmpeg cannot decode it ({error.strerror})") from error
        for frame in frames:
            if frame.is_corrupt:
                self._has_key = False
                raise BrokenBagError("FFmpeg finds it damaged")
            yield frame.pts, frame

    def _begins(self, content: bytes) -> bool:
        """Tell whether a decoder can begin with this message."""
        at = content.find(_START)
        while 0 <= at < len(content) - 3:
            unit = content[at + 3]
            kind = unit & 0x1F if self._name == "h264" else unit >> 1 & 0x3F
            if kind in self._key_units:
                return True
            at = content.find(_START, at + 3)
        return False


def rgb_of(frame: Any) -> NDArray[np.uint8]:
    """A decoded frame as RGB, (H, W, 3) uint8.

    Raises:
        BrokenBagError: it is larger than is decoded.
    """
    if refusal := too_large(frame.width, frame.height):
        raise BrokenBagError(f"it {refusal}")
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
