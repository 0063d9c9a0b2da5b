"""Sizes are read from headers and limited before anything is decoded; odd depths are said."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from roadshift.runtime.errors import FrameError, LabelError
from roadshift.runtime.frames import open_frames
from roadshift.runtime.frames.images import read_image
from roadshift.runtime.labels import read_labels
from roadshift.runtime.pictures.picture_size import picture_size
from roadshift.runtime.pictures.png import read_png

SIZES = [(1, 1), (7, 300), (640, 360), (2049, 3)]


def encoded(suffix: str, width: int, height: int, *settings: int) -> bytes:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    good, data = cv2.imencode(suffix, image, settings)
    assert good
    return data.tobytes()


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(
    ("suffix", "settings"),
    [
        (".jpg", ()),
        (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        (".png", ()),
        (".webp", (cv2.IMWRITE_WEBP_QUALITY, 80)),
        (".webp", (cv2.IMWRITE_WEBP_QUALITY, 101)),
        (".bmp", ()),
        (".tiff", ()),
        (".ppm", ()),
        (".ppm", (cv2.IMWRITE_PXM_BINARY, 0)),
        (".ras", ()),
        (".gif", ()),
        (".jp2", ()),
        (".avif", ()),
    ],
)
def test_every_kind_of_file_states_its_size(
    suffix: str, settings: tuple[int, ...], width: int, height: int
) -> None:
    if suffix in (".jp2", ".avif") and min(width, height) < 16:
        pytest.skip("their encoders take no such size")
    assert picture_size(encoded(suffix, width, height, *settings)) == (width, height)


@pytest.mark.parametrize(
    ("kind", "mode", "settings"),
    [
        ("TIFF", "I;16B", {}),
        ("TIFF", "RGB", {"big_tiff": True}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {"exif": b"Exif\0\0"}),
        ("PNG", "P", {}),
        ("PPM", "1", {}),
    ],
)
def test_files_of_another_library_state_their_size(
    kind: str, mode: str, settings: dict[str, object]
) -> None:
    out = io.BytesIO()
    Pillow.new(mode, (300, 200)).save(out, kind, **settings)
    assert picture_size(out.getvalue()) == (300, 200)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm", ".gif"])
def test_a_header_that_is_cut_states_nothing_or_the_size(suffix: str) -> None:
    data = encoded(suffix, 640, 360)
    for length in range(min(len(data), 700)):
        assert picture_size(data[:length]) in {
            None,
            (640, 360),
            (64, 360),
            (6, 360),
            (640, 36),
            (640, 3),
        }


def bomb(path: Path, width: int = 30_000, height: int = 30_000, colour_type: int = 2) -> Path:
    """A PNG of a few hundred bytes whose header tells of gigabytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    body = zlib.compress(bytes(100_000))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    return path


def test_a_decompression_bomb_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.png")
    tracemalloc.start()
    try:
        with pytest.raises(
            FrameError,
            match=r"bomb\.png has 30000 x 30000 pixels, 900 megapixels, and at most 100 are "
            r"decoded; remove it, or set ROADSHIFT_MAX_MEGAPIXELS=900 ",
        ):
            read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_bomb_among_frames_is_skipped_and_one_among_labels_is_an_error(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4), np.uint8))
    bomb(tmp_path / "b.png", colour_type=0)
    said: list[str] = []
    assert [frame.name for frame in open_frames(tmp_path, on_skip=said.append)] == ["a"]
    assert "900 megapixels" in said[0]
    with pytest.raises(LabelError, match=r"b\.png: this label map has 30000 x 30000 pixels"):
        read_png(tmp_path / "b.png")


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".tiff", ".ppm", ".gif", ".jp2"])
def test_the_limit_holds_for_every_kind_and_can_be_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(suffix, 200, 100))
    monkeypatch.setenv("ROADSHIFT_MAX_MEGAPIXELS", "0.0199")
    with pytest.raises(FrameError, match="200 x 100 pixels"):
        read_image(path)
    monkeypatch.setenv("ROADSHIFT_MAX_MEGAPIXELS", "0.02")
    assert read_image(path).shape == (100, 200, 3)
    for wrong in ("many", "-1", "nan"):
        monkeypatch.setenv("ROADSHIFT_MAX_MEGAPIXELS", wrong)
        with pytest.raises(FrameError, match=f"ROADSHIFT_MAX_MEGAPIXELS='{wrong}', which is not"):
            read_image(path)


# ---- odd depths -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("brightest", [1, 200, 900, 4095])
def test_twelve_bits_in_sixteen_are_scaled_and_said(
    tmp_path: Path, suffix: str, brightest: int
) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), np.array([[0, brightest // 2, brightest]], np.uint16))
    said: list[str] = []
    found = read_image(path, remark=said.append)[0, :, 0]
    expected = np.array([0, brightest // 2, brightest]) * (255 / 4095)
    np.testing.assert_allclose(found, expected, atol=0.51)
    assert len(said) == 1
    assert f"a{suffix} has 16 bits a channel and no value above {brightest}: " in said[0]
    assert "twelve bits of a camera, 4095 is white" in said[0]


@pytest.mark.parametrize("brightest", [4096, 20_000, 65_535])
def test_sixteen_bits_are_read_as_such_without_a_word(tmp_path: Path, brightest: int) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[0, brightest]], np.uint16))
    said: list[str] = []
    assert read_image(tmp_path / "a.png", remark=said.append)[0, 1, 0] == round(brightest / 257)
    assert said == []


def test_black_is_black_in_every_depth_without_a_word(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 2), np.uint16))
    said: list[str] = []
    assert read_image(tmp_path / "a.png", remark=said.append).max() == 0
    assert said == []


def test_a_source_says_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((2, 2), 3000, np.uint16))
    said: list[str] = []
    source = open_frames(tmp_path, on_skip=said.append)
    for _ in range(2):
        assert all(frame.image.max() == 187 for frame in source)
    assert len(said) == 1
    assert "0.png" in said[0]
    assert (source.skipped, source.frames_skipped) == ([], 0)
    list(open_frames(tmp_path))
    for path in [*tmp_path.iterdir()] * 2:
        read_image(path)
    assert caplog.text.count("twelve bits") == 2  # of the source, and of the files one by one
    assert "Skipped" not in caplog.text


@pytest.mark.parametrize("largest", [1, 100, 255, 1000, 4095, 65_535])
@pytest.mark.parametrize("kind", ["P5", "P2"])
def test_the_white_that_a_pgm_states_is_white(tmp_path: Path, kind: str, largest: int) -> None:
    values = [0, largest // 2, largest]
    header = f"{kind}\n# a camera\n3 1\n{largest}\n".encode()
    binary = np.array(values, ">u2" if largest > 255 else "u1").tobytes()
    body = binary if kind == "P5" else " ".join(map(str, values)).encode() + b"\n"
    (tmp_path / "a.pgm").write_bytes(header + body)
    said: list[str] = []
    found = read_image(tmp_path / "a.pgm", remark=said.append)[0, :, 0]
    np.testing.assert_allclose(found, np.array(values) * (255 / largest), atol=0.51)
    assert said == []


# ---- cut pictures of other kinds --------------------------------------------------------------


def read_or_refused(path: Path) -> np.ndarray | None:
    """The picture, or None after a refusal that names the file."""
    refusal = ""
    try:
        return read_image(path, remark=lambda _: None)
    except FrameError as error:
        refusal = str(error)
    assert path.name in refusal
    return None


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tiff", ".ppm", ".gif"])
def test_a_picture_cut_anywhere_is_refused_or_whole(tmp_path: Path, suffix: str) -> None:
    data = encoded(suffix, 64, 40)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    whole = read_image(path)
    for length in [*range(1, len(data), len(data) // 60), *range(len(data) - 14, len(data))]:
        path.write_bytes(data[:length])
        found = read_or_refused(path)
        if found is not None:
            np.testing.assert_array_equal(found, whole)
            assert length >= len(data) - 13


def test_a_png_that_lacks_only_its_end_is_whole_and_a_label_map_is_not(tmp_path: Path) -> None:
    from roadshift.runtime.labels import LabelSpace

    cv2.imwrite(str(tmp_path / "a.png"), np.eye(40, dtype=np.uint8))
    data = (tmp_path / "a.png").read_bytes()
    whole = read_image(tmp_path / "a.png")
    for missing in (1, 4, 11, 12):
        (tmp_path / "a.png").write_bytes(data[:-missing])
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), whole)
    two = LabelSpace(name="two", classes=("a", "b"), colours=((0, 0, 0), (1, 1, 1)))
    with pytest.raises(LabelError, match="the PNG data ends early"):
        read_labels(tmp_path / "a.png", two)
    (tmp_path / "a.png").write_bytes(data[:-13])
    with pytest.raises(FrameError, match="the PNG data ends early"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bits_in_any_kind_are_refused_by_name_or_give_a_picture(
    tmp_path: Path, seed: int
) -> None:
    random = np.random.default_rng(seed)
    suffix = [".png", ".webp", ".bmp", ".tiff", ".ppm"][seed % 5]
    data = bytearray(encoded(suffix, 64, 40))
    for at in random.integers(0, len(data), 3):
        data[at] ^= 1 << int(random.integers(8))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    image = read_or_refused(path)
    if image is not None:
        assert suffix != ".png"
        assert image.ndim == 3
