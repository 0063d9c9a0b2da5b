"""Videos of dashcams and phones: transport streams, HEVC, capital suffixes, turned pictures."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from roadshift.runtime.frames import open_frames

TIMES_MS = [0, 100, 150, 400, 450, 500, 900, 1000, 1001, 1500, 2000, 2050]
WIDTH, HEIGHT = 96, 64
_TURNS = {  # degrees clockwise, and the first four numbers of a track's matrix
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


def write(path: Path, kind: str, codec: str) -> Path:
    """A video of variable rate: frame ``i`` is grey of 20 + 15 i, with its first corner red."""
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if codec == "libx265":
            stream.options = {"preset": "ultrafast", "x265-params": "log-level=none:pools=none"}
        for number, time in enumerate(TIMES_MS):
            pixels = np.full((HEIGHT, WIDTH, 3), 20 + 15 * number, np.uint8)
            pixels[:16, :16] = 255, 0, 0
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, stream.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "kind", "codec"),
    [
        ("clip.ts", "mpegts", "libx264"),
        ("CLIP.TS", "mpegts", "libx265"),
        ("clip.m2ts", "mpegts", "libx264"),
        ("CLIP.MP4", "mp4", "libx265"),
        ("clip.mov", "mov", "libx264"),
        ("clip.mkv", "matroska", "libx265"),
    ],
)
@pytest.mark.parametrize("in_folder", [False, True])
def test_frames_and_times_of_the_container(
    tmp_path: Path, name: str, kind: str, codec: str, in_folder: bool
) -> None:
    path = write(tmp_path / name, kind, codec)
    said: list[str] = []
    frames = list(open_frames(tmp_path if in_folder else path, on_skip=said.append))
    assert [round(one.timestamp_ns / 1e6) for one in frames] == TIMES_MS
    for number, one in enumerate(frames):
        assert abs(float(one.image[40:, 40:].mean()) - (20 + 15 * number)) < 4
    assert said == []


@pytest.mark.parametrize("degrees", _TURNS)
def test_a_phone_that_was_held_upright(tmp_path: Path, degrees: int) -> None:
    path = write(tmp_path / "clip.mp4", "mp4", "libx264")
    data = bytearray(path.read_bytes())
    plain = _matrix(*_TURNS[0])
    at = data.index(plain, data.index(b"tkhd"))
    data[at : at + len(plain)] = _matrix(*_TURNS[degrees])
    path.write_bytes(data)
    shown = np.zeros((HEIGHT, WIDTH), bool)
    shown[:16, :16] = True
    turned = np.rot90(shown, -degrees // 90)
    for one in open_frames(path):
        assert one.image.shape[:2] == turned.shape
        is_red = (one.image[..., 0] > 200) & (one.image[..., 1] < 90)
        assert (is_red == turned).mean() > 0.97


def _matrix(a: int, b: int, c: int, d: int) -> bytes:
    """A track's matrix in ISO 14496-12: 16.16 fixed point, and 2.30 in its last column."""
    one = 1 << 16
    return struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
