"""JPEGs are decoded strictly: whole ones exactly as OpenCV does, and no part of one that is not.

The grid is every kind of file that cameras and libraries write, cut at many places and with many
bits flipped. Damage after which the codes fall into step again, at the right block, gives another
valid picture that no decoder can tell from a real one: so shares are asked for there, not all.
"""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from roadshift.runtime.errors import FrameError
from roadshift.runtime.frames.images import read_image
from roadshift.runtime.pictures.jpeg import JpegError, decode_jpeg, exif_orientation, turned

HEIGHT, WIDTH = 40, 56
END = b"\xff\xd9"


def scene(seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (WIDTH, HEIGHT))


def with_segment(data: bytes, kind: int, body: bytes) -> bytes:
    """A JPEG with one more marker behind its start."""
    return data[:2] + bytes([0xFF, kind]) + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


def saved(mode: str = "RGB", **settings: object) -> bytes:
    image = Pillow.fromarray(scene())
    out = io.BytesIO()
    image.convert(mode).save(out, "JPEG", quality=85, **settings)
    return out.getvalue()


def with_thumbnail() -> bytes:
    """An EXIF segment that holds a whole JPEG, as every camera writes it."""
    thumbnail = saved()
    tiff = b"II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail
    return with_segment(saved(), 0xE1, b"Exif\0\0" + tiff)


def multi_picture() -> bytes:
    first, second = Pillow.fromarray(scene()), Pillow.fromarray(scene(1))
    out = io.BytesIO()
    first.save(out, "MPO", save_all=True, append_images=[second])
    return out.getvalue()


KINDS = {
    "baseline": lambda: saved(),
    "optimised": lambda: saved(optimize=True),
    "444": lambda: saved(subsampling=0),
    "422": lambda: saved(subsampling=1),
    "420": lambda: saved(subsampling=2),
    "grey": lambda: saved("L"),
    "progressive": lambda: saved(progressive=True),
    "progressive grey": lambda: saved("L", progressive=True),
    "progressive 444": lambda: saved(progressive=True, subsampling=0),
    "restarts": lambda: saved(restart_marker_rows=1),
    "restarts, many": lambda: saved(restart_marker_blocks=1),
    "restarts, progressive": lambda: saved(restart_marker_blocks=3, progressive=True),
    "thumbnail": with_thumbnail,
}
kinds = pytest.mark.parametrize("kind", KINDS)


def by_opencv(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image[..., ::-1]


def scan_start(data: bytes) -> int:
    """The first byte of the first scan's data of the picture (not of its thumbnail)."""
    at = 2
    while data[at + 1] != 0xDA:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


@kinds
def test_a_whole_file_decodes_as_by_opencv(kind: str) -> None:
    data = KINDS[kind]()
    np.testing.assert_array_equal(decode_jpeg(data), by_opencv(data))


@pytest.mark.parametrize(
    "behind", [b"\0", b"\xff", b"\xff\xd8\xff\xe0", b"\xff\xda" * 999, bytes(512)]
)
@pytest.mark.parametrize("kind", ["baseline", "progressive", "restarts"])
def test_what_lies_behind_the_end_marker_does_not_matter(kind: str, behind: bytes) -> None:
    data = KINDS[kind]()
    np.testing.assert_array_equal(decode_jpeg(data + behind), by_opencv(data))


@kinds
def test_a_file_that_lacks_only_its_end_marker_is_whole(kind: str) -> None:
    data = KINDS[kind]()
    for cut in (data[:-1], data[:-2]):
        np.testing.assert_array_equal(decode_jpeg(cut), by_opencv(data))


def test_a_multi_picture_file_gives_its_first_also_when_the_second_is_cut() -> None:
    data = multi_picture()
    first = by_opencv(data)
    second = data.index(b"\xff\xd8\xff", data.index(END))
    for length in (len(data), second + 100, second + 3, second):
        np.testing.assert_array_equal(decode_jpeg(data[:length]), first)


@kinds
def test_a_file_cut_anywhere_is_refused(kind: str) -> None:
    """A file that is not refused has the whole picture: at most its last bytes are padding."""
    data = KINDS[kind]()
    whole = by_opencv(data)
    for length in [*range(3, len(data) - 2, 7), *range(len(data) - 12, len(data) - 2)]:
        try:
            np.testing.assert_array_equal(decode_jpeg(data[:length]), whole)
        except JpegError:
            continue
        assert length >= len(data) - 4, length


@pytest.mark.parametrize("kind", ["progressive", "progressive grey", "progressive 444"])
def test_a_progressive_file_cut_between_two_scans_is_refused(kind: str) -> None:
    data = KINDS[kind]()
    starts = [at for at in range(len(data)) if data[at : at + 2] in (b"\xff\xda", b"\xff\xc4")]
    between = [at for at in starts if at > scan_start(data)]
    assert len(between) >= 3
    for at in between:
        for cut in (data[:at], data[:at] + b"\xff"):
            with pytest.raises(JpegError, match="ends early"):
                decode_jpeg(cut)


@kinds
def test_data_that_is_taken_out_put_in_or_zeroed_is_noticed(kind: str) -> None:
    data = KINDS[kind]()
    random = np.random.default_rng(1)
    start, noticed, tried = scan_start(data), 0, 0
    for at in range(start + 4, len(data) - 70, max(1, (len(data) - start) // 24)):
        noise = bytes(random.integers(0, 256, 64, dtype=np.uint8))
        for other in (
            data[:at] + data[at + 64 :],
            data[:at] + noise + data[at:],
            data[:at] + bytes(64) + data[at + 64 :],
            data[:at] + noise + data[at + 64 :],
        ):
            tried += 1
            try:
                decode_jpeg(other)
            except JpegError:
                noticed += 1
    assert noticed >= 0.5 * tried


@kinds
def test_flipped_bits_never_crash_and_are_noticed_where_the_decoder_falls_out_of_step(
    kind: str,
) -> None:
    data = KINDS[kind]()
    start = scan_start(data)
    noticed = tried = 0
    for at in range(start, len(data) - 2, max(1, (len(data) - start) // 150)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        tried += 1
        try:
            assert decode_jpeg(bytes(flipped)).shape == (HEIGHT, WIDTH, 3)
        except JpegError:
            noticed += 1
    assert noticed >= 0.05 * tried


@pytest.mark.parametrize("count", [1, 2])
def test_a_byte_or_two_before_the_end_marker_are_a_cameras_padding(count: int) -> None:
    data = saved()
    for padding in (b"\x5a" * count, bytes(count), bytes(30 * count)):
        np.testing.assert_array_equal(decode_jpeg(data[:-2] + padding + END), by_opencv(data))
    with pytest.raises(JpegError, match="extraneous bytes"):
        decode_jpeg(data[:-2] + b"\x5a" * 20 + END)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "restarts" in kind])
@pytest.mark.parametrize("marked", [False, True])
def test_zeros_in_place_of_a_pictures_end_are_no_padding(kind: str, marked: bool) -> None:
    data = KINDS[kind]()
    start = scan_start(data)
    for share in (0.2, 0.5, 0.8):
        at = start + int(share * (len(data) - start))
        rest = bytes(len(data) - at)
        with pytest.raises(JpegError):
            decode_jpeg(data[:at] + rest + (END if marked else b""))


def test_cmyk_is_converted_as_by_opencv_and_checked_as_strictly() -> None:
    data = saved("CMYK")
    np.testing.assert_array_equal(decode_jpeg(data), by_opencv(data))
    with pytest.raises(JpegError, match="ends early"):
        decode_jpeg(data[: len(data) * 3 // 4])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_as_pillow_does(orientation: int) -> None:
    from PIL import ImageOps

    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = saved(subsampling=0, exif=exif.tobytes())
    upright = ImageOps.exif_transpose(Pillow.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode_jpeg(data), np.asarray(upright))


def test_orientations_turn_a_picture_of_four_pixels_by_hand() -> None:
    stored = np.arange(4, dtype=np.uint8).reshape(2, 2, 1).repeat(3, axis=2)
    expected = {1: [0, 1, 2, 3], 3: [3, 2, 1, 0], 6: [2, 0, 3, 1], 8: [1, 3, 0, 2]}
    for orientation, values in expected.items():
        assert turned(stored, orientation)[..., 0].ravel().tolist() == values


def test_metadata_that_is_damaged_leaves_the_picture_as_it_is_stored() -> None:
    for tiff in (
        b"",
        b"II*\0",
        b"XX*\0\x08\0\0\0",
        b"II*\0\xff\xff\xff\x7f",
        b"MM\0*\0\0\0\x08\0\x01",
    ):
        assert exif_orientation(tiff) == 1
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0"
    assert exif_orientation(tiff) == 1


@pytest.mark.parametrize("version", [0, 2, 255])
def test_any_jfif_version_is_read_and_checked_as_strictly(version: int) -> None:
    data = bytearray(saved())
    data[data.index(b"JFIF") + 5] = version
    np.testing.assert_array_equal(decode_jpeg(bytes(data)), by_opencv(saved()))
    with pytest.raises(JpegError, match="ends early"):
        decode_jpeg(bytes(data[: len(data) * 3 // 4]))


@pytest.mark.parametrize("factors", [0x111111, 0x211111, 0x221111, 0x121111, 0x411111, 0x141111])
def test_every_sampling_of_colours_is_decoded_as_by_opencv(factors: int) -> None:
    good, data = cv2.imencode(".jpg", scene(), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factors])
    assert good
    np.testing.assert_array_equal(decode_jpeg(data.tobytes()), by_opencv(data.tobytes()))


def test_bytes_at_random_are_refused_or_decoded_and_print_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    random = np.random.default_rng(0)
    for turn in range(300):
        data = bytearray(KINDS[["baseline", "progressive", "restarts"][turn % 3]]())
        for at in random.integers(2, len(data), 3):
            data[at] = random.choice([0, 255, random.integers(256)])
        with suppress(JpegError):
            decode_jpeg(bytes(data))
    assert capfd.readouterr() == ("", "")


def test_twelve_bits_a_channel_are_named() -> None:
    data = bytearray(saved())
    frame = data.index(b"\xff\xc0")
    data[frame + 4] = 12
    with pytest.raises(JpegError, match="a JPEG of 12 bits a channel, and 8 are decoded"):
        decode_jpeg(bytes(data))


def test_the_error_names_the_file_and_the_library_prints_nothing(tmp_path: Path) -> None:
    data = saved()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "odd.jpg").write_bytes(data[:-2] + b"\x5a" * 20 + END)
    with pytest.raises(FrameError, match=r"cut\.jpg is damaged: the JPEG data ends early, after"):
        read_image(tmp_path / "cut.jpg")
    code = (
        "import sys\n"
        "from roadshift.runtime.frames import open_frames\n"
        "said = []\n"
        "try: list(open_frames(sys.argv[1], on_skip=said.append))\n"
        "except Exception as error: said.append(error)\n"
        "assert len(said) == 3, said\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
