"""Videos are counted by reading; what is cut or damaged is proved, and what is whole is not blamed.

Videos with awkward times are written by PyAV: containers, codecs and time bases in a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from roadshift.runtime.errors import FrameError
from roadshift.runtime.frames import open_frames
from roadshift.runtime.video.containers import container_damage
from roadshift.runtime.video.video_file import count_frames, expected_frames

FRAMES, WIDTH, HEIGHT = 24, 64, 48

TIMES = {  # milliseconds
    "constant": [40 * i for i in range(FRAMES)],
    "variable": np.cumsum([0, *(33 if i % 2 else 100 for i in range(FRAMES - 1))]).tolist(),
    "offset": [5000 + 33 * i for i in range(FRAMES)],
    "first gap": [0, *(1000 + 33 * i for i in range(FRAMES - 1))],
    "gap inside": [33 * i + (4000 if i > 9 else 0) for i in range(FRAMES)],
    "jitter": [33 * i + i % 3 for i in range(FRAMES)],
    "slow": [2000 * i for i in range(FRAMES)],
    "fast": [2 * i for i in range(FRAMES)],
}


def write_av(
    path: Path,
    times_ms: Sequence[int],
    codec: str,
    rate: int = 30,
    options: dict[str, str] | None = None,
) -> Path:
    """A video whose frame ``i`` is grey of value ``10 i`` and is shown at ``times_ms[i]``."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for index, time in enumerate(times_ms):
            pixels = np.full((HEIGHT, WIDTH, 3), 10 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, stream.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_cv(path: Path, codec: str, frames: int = FRAMES) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (WIDTH, HEIGHT))
    random = np.random.default_rng(0)
    for _ in range(frames):
        small = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        writer.write(cv2.resize(small, (WIDTH, HEIGHT)))
    writer.release()
    return path


def read(path: Path) -> tuple[int, list[str]]:
    """The number of frames, and what was said."""
    said: list[str] = []
    return sum(1 for _ in open_frames(path, on_skip=said.append)), said


# ---- whole videos -----------------------------------------------------------------------------


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize(
    ("suffix", "codec", "rate"),
    [
        (".mp4", "libx264", 30),
        (".mp4", "libx264", 1000),
        (".mov", "libx264", 25),
        (".mkv", "libx264", 30),
        (".mkv", "libx264", 1000),
        (".mkv", "mjpeg", 30),
        (".webm", "libvpx-vp9", 1000),
        (".webm", "libvpx", 30),
    ],
)
def test_a_whole_video_is_read_and_counted_whole_whatever_its_times(
    tmp_path: Path, times: str, suffix: str, codec: str, rate: int
) -> None:
    path = write_av(tmp_path / f"clip{suffix}", TIMES[times], codec, rate)
    source = open_frames(path)
    assert source.length == source.count() == FRAMES
    found = [frame.timestamp_ns / 1e6 for frame in source]
    assert source.skipped == []
    shifted = np.subtract(TIMES[times], TIMES[times][0])
    np.testing.assert_allclose(np.subtract(found, found[0]), shifted, atol=1.01)


@pytest.mark.parametrize("movflags", ["frag_keyframe+empty_moov", "faststart", "dash"])
def test_fragmented_and_faststart_files_are_whole(tmp_path: Path, movflags: str) -> None:
    options = {"movflags": movflags}
    path = write_av(tmp_path / "clip.mp4", TIMES["constant"], "libx264", options=options)
    assert read(path) == (FRAMES, [])


def test_matroska_written_as_a_stream_has_no_sizes_and_is_whole(tmp_path: Path) -> None:
    path = write_av(tmp_path / "a.mkv", TIMES["constant"], "libx264", options={"live": "1"})
    assert read(path) == (FRAMES, [])


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("padding", [bytes(3), bytes(4096), b"\xff" * 512])
def test_what_a_recorder_pads_a_file_with_is_no_damage(
    tmp_path: Path, suffix: str, padding: bytes
) -> None:
    path = write_cv(tmp_path / f"clip{suffix}", "mp4v")
    path.write_bytes(path.read_bytes() + padding)
    assert read(path) == (FRAMES, [])


@pytest.mark.parametrize("name", ["12:30:00.mp4", "rtsp:.mp4", "file:a.mkv", "%03d.mp4"])
def test_a_relative_path_is_a_path_whatever_it_looks_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_cv(tmp_path / f"clip{Path(name).suffix}", "mp4v").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert read(Path(name)) == (FRAMES, [])
    assert open_frames(name).length == FRAMES


# ---- cut videos -------------------------------------------------------------------------------


CUT = [(".avi", "MJPG"), (".avi", "mp4v"), (".mkv", "mp4v"), (".mkv", "MJPG")]


@pytest.mark.parametrize(("suffix", "codec"), CUT)
@pytest.mark.parametrize("percent", [40, 60, 80, 95])
def test_a_cut_video_says_so_and_how_much_is_missing(
    tmp_path: Path, suffix: str, codec: str, percent: int
) -> None:
    path = write_cv(tmp_path / f"clip{suffix}", codec)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * percent // 100])
    missing = len(whole) - path.stat().st_size
    frames, said = read(path)
    assert 0 < frames <= FRAMES
    (sentence,) = [one for one in said if "ends early" in one]
    of = f" of {FRAMES}" if frames < FRAMES else ""
    assert f"clip{suffix} ends early: {frames}{of} frames were read" in sentence
    assert f"the file's last {missing} bytes are missing" in sentence


def test_a_cut_video_with_its_index_in_front_says_so(tmp_path: Path) -> None:
    options = {"movflags": "faststart"}
    path = write_av(tmp_path / "clip.mp4", TIMES["variable"], "mpeg4", options=options)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 400])
    source = open_frames(path, on_skip=lambda _: None)
    frames = len(list(source))
    assert 0 < frames < FRAMES
    assert f"{frames} of {FRAMES} frames were read, the file's last 400 bytes" in source.skipped[-1]


@pytest.mark.parametrize("times", ["offset", "constant", "variable", "gap inside", "first gap"])
@pytest.mark.parametrize("percent", [60, 80])
def test_a_cut_matroska_file_states_its_frames_or_none(
    tmp_path: Path, times: str, percent: int
) -> None:
    path = write_av(tmp_path / "clip.mkv", TIMES[times], "mjpeg")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * percent // 100])
    frames, said = read(path)
    assert 10 < frames < FRAMES
    of = f" of {FRAMES}" if times in ("offset", "constant") else ""
    assert f"clip.mkv ends early: {frames}{of} frames were read, the file's last" in said[-1]


def test_what_is_cut_off_was_not_read(tmp_path: Path) -> None:
    path = write_cv(tmp_path / "clip.avi", "MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = open_frames(path, on_skip=lambda _: None)
    assert 0 < len(list(source)) < FRAMES
    assert source.frames_skipped == 0
    assert len(source.skipped) == 1


def test_a_recording_that_was_not_finished_says_so(tmp_path: Path) -> None:
    path = write_cv(tmp_path / "clip.avi", "MJPG")
    data = bytearray(path.read_bytes())
    data[4:8] = bytes(4)  # a writer fills in the size last
    path.write_bytes(data)
    _, said = read(path)
    assert "its recording was not finished" in said[0]


# ---- damaged videos ---------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [1, 3])
def test_frames_that_cannot_be_decoded_are_counted_and_the_others_are_read(
    tmp_path: Path, wrong: int
) -> None:
    """OpenCV ends a video at the first of them."""
    path = write_cv(tmp_path / "clip.mkv", "mp4v")
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"\0\0\x01\xb6"]
    assert len(starts) == FRAMES
    for index in range(wrong):
        at = starts[5 + 4 * index]
        data[at : at + 4] = b"\xff\xff\xff\xff"  # no picture starts here any more
    path.write_bytes(data)
    source = open_frames(path, on_skip=lambda _: None)
    assert len(list(source)) == FRAMES - wrong == source.count()
    assert source.frames_skipped == wrong
    assert source.skipped == [
        f"{path} is damaged: {wrong} of {FRAMES} frames cannot be decoded and are left out, the "
        "first of them after 5 good ones."
    ]


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
@pytest.mark.parametrize("at", [5, FRAMES - 1])
def test_damaged_motion_jpeg_frames_are_left_out(tmp_path: Path, suffix: str, at: int) -> None:
    path = write_cv(tmp_path / f"clip{suffix}", "MJPG")
    whole = [frame.image for frame in open_frames(path)]
    data = bytearray(path.read_bytes())
    start = [i for i in range(len(data)) if data[i : i + 3] == b"\xff\xd8\xff"][at]
    scan = data.index(b"\xff\xda", start) + 14
    data[scan + 60 : scan + 62] = b"\xff\xd9"  # the picture ends in its middle
    path.write_bytes(data)
    source = open_frames(path, on_skip=lambda _: None)
    found = [frame.image for frame in source]
    assert (len(found), source.frames_skipped) == (FRAMES - 1, 1)
    assert f"1 of {FRAMES} frames cannot be decoded" in source.skipped[0]
    del whole[at]
    np.testing.assert_array_equal(found, whole)


def test_a_camera_whose_every_motion_jpeg_frame_is_odd_is_believed(tmp_path: Path) -> None:
    path = write_cv(tmp_path / "clip.avi", "MJPG")
    data = bytearray(path.read_bytes())
    end = 0
    while (start := data.find(b"\xff\xda", end)) >= 0:
        end = data.index(b"\xff\xd9", start)
        data[end - 20 : end] = b"\xff\xd9" + bytes(18)
    path.write_bytes(data)
    assert read(path) == (FRAMES, [])


def test_a_codec_without_a_decoder_is_no_damage(tmp_path: Path) -> None:
    path = write_cv(tmp_path / "clip.avi", "mp4v")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"zzzz").replace(b"mp4v", b"zzzz"))
    with pytest.raises(FrameError, match=r"no decoder for its codec, or .*ffmpeg -i clip\.avi"):
        list(open_frames(path))


def test_a_damaged_structure_is_named_by_its_place(tmp_path: Path) -> None:
    path = write_cv(tmp_path / "clip.mkv", "mp4v")
    data = bytearray(path.read_bytes())
    block = data.index(b"\xa3", data.index(b"\x1f\x43\xb6\x75") + 60)
    while data[block + 3] != 0x81:  # track 1, behind two bytes of size
        block = data.index(b"\xa3", block + 1)
    data[block : block + 8] = b"\x11" * 8
    path.write_bytes(data)
    damage = container_damage(path)
    assert damage is not None
    assert (damage.is_cut, damage.reason) == (False, f"its structure is broken at byte {block}")
    assert any("its structure is broken" in sentence for sentence in read(path)[1])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_noise_in_a_video_is_an_error_or_frames_and_never_a_crash(
    tmp_path: Path, suffix: str, seed: int
) -> None:
    path = write_cv(tmp_path / f"clip{suffix}", "MJPG" if suffix == ".avi" else "mp4v")
    random = np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    at = int(random.integers(len(data) - 64))
    data[at : at + 64] = bytes(random.integers(0, 256, 64, dtype=np.uint8))
    path.write_bytes(data)
    try:
        frames, _ = read(path)
    except FrameError:
        return
    assert 0 < frames <= count_frames(path)


# ---- sizes and counts -------------------------------------------------------------------------


def test_a_video_of_absurd_size_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_cv(tmp_path / "clip.mp4", "mp4v")
    monkeypatch.setenv("ROADSHIFT_MAX_MEGAPIXELS", "0.003")
    with pytest.raises(
        FrameError, match=r"clip\.mp4 has 64 x 48 pixels, 1 megapixels, and at most"
    ):
        list(open_frames(path))


def test_large_files_have_no_length_until_they_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from roadshift.runtime.video import video_file

    path = write_cv(tmp_path / "clip.mp4", "mp4v")
    monkeypatch.setattr(video_file, "_COUNTED_AHEAD_BYTES", 100)
    assert expected_frames(path) is None
    source = open_frames(path)
    assert source.length is None
    with pytest.raises(TypeError, match="is not known"):
        len(source)
    for _ in source:
        pass
    assert source.length == FRAMES
