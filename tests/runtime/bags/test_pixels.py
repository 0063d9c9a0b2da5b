"""Encodings of raw and compressed pictures, each against the picture that went in."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from bag_cases import pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from roadshift.runtime.bags.compressed import compressed_pixels
from roadshift.runtime.bags.message_fields import COMPRESSED, RAW
from roadshift.runtime.bags.messages import CameraMessage
from roadshift.runtime.bags.pixels import ENCODINGS, raw_pixels
from roadshift.runtime.bags.regions import BrokenBagError, ReadBuffer

WIDTH, HEIGHT = 16, 10
RGB = pictures(1, WIDTH, HEIGHT)[0]
GREY = np.ascontiguousarray(RGB[..., 1])
ORDER = {"rgb": [0, 1, 2], "bgr": [2, 1, 0], "rgba": [0, 1, 2, 0], "bgra": [2, 1, 0, 1]}


def raw(data: NDArray[Any], encoding: str, step: int = 0, big: bool = False) -> CameraMessage:
    content = memoryview(np.ascontiguousarray(data).tobytes())
    return CameraMessage(RAW, 0, "", encoding, content, WIDTH, HEIGHT, step, big)


@pytest.mark.parametrize("encoding", ["rgb", "bgr", "rgba", "bgra"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("padding", [0, 6])
def test_colours(encoding: str, big: bool, bits: int, padding: int) -> None:
    values = RGB.astype(np.uint16) * 257 - np.uint16(3) * (RGB > 0) if bits == 16 else RGB
    samples = values[..., ORDER[encoding]].astype(f"{'>' if big else '<'}u{bits // 8}")
    rows = np.frombuffer(samples.tobytes(), np.uint8).reshape(HEIGHT, -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    found = raw_pixels(raw(padded, f"{encoding}{bits}", padded.shape[1], big))
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype


@pytest.mark.parametrize("encoding", ["mono8", "8UC1", "MONO8"])
def test_grey(encoding: str) -> None:
    found = raw_pixels(raw(GREY, encoding))
    np.testing.assert_array_equal(found, np.stack([GREY] * 3, axis=2))


def test_opencv_names_are_blue_green_red() -> None:
    np.testing.assert_array_equal(raw_pixels(raw(RGB[..., ::-1], "8UC3")), RGB)
    np.testing.assert_array_equal(raw_pixels(raw(RGB[..., [2, 1, 0, 0]], "8UC4")), RGB)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_by_their_own_samples(pattern: str, bits: int) -> None:
    """A picture has the pattern's own value wherever that is a sample of the colour."""
    values = RGB.astype(np.uint16) * 257 if bits == 16 else RGB
    smooth = np.broadcast_to(values[0, 0], values.shape)
    mosaic = np.zeros((HEIGHT, WIDTH), values.dtype)
    for place, colour in enumerate(pattern):
        mosaic[place // 2 :: 2, place % 2 :: 2] = smooth[0, 0, "rgb".index(colour)]
    found = raw_pixels(raw(mosaic, f"bayer_{pattern}{bits}"))
    np.testing.assert_array_equal(found[2:-2, 2:-2], smooth[2:-2, 2:-2])


def planes() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Brightness of each pixel, and both colours of each block of 2 x 2."""
    random = np.random.default_rng(3)
    bright = random.integers(40, 200, (HEIGHT, WIDTH), dtype=np.uint8)
    blue, red = random.integers(90, 160, (2, HEIGHT // 2, WIDTH // 2), dtype=np.uint8)
    return bright, blue, red


def by_definition() -> NDArray[np.float64]:
    """RGB of `planes` by ITU-R BT.601 with 16 to 235, pixel by pixel."""
    bright, blue, red = planes()
    found = np.empty((HEIGHT, WIDTH, 3))
    for y in range(HEIGHT):
        for x in range(WIDTH):
            luma = 1.164 * (float(bright[y, x]) - 16)
            u, v = float(blue[y // 2, x // 2]) - 128, float(red[y // 2, x // 2]) - 128
            found[y, x] = luma + 1.596 * v, luma - 0.813 * v - 0.391 * u, luma + 2.018 * u
    return found.clip(0, 255)


@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        *(("yuv422", "uyvy"), ("uyvy", "uyvy")),
        *(("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")),
    ],
)
def test_both_orders_of_yuv422(encoding: str, order: str) -> None:
    bright, *colours = planes()
    blue, red = (plane.repeat(2, 0) for plane in colours)
    packed = np.empty((HEIGHT, WIDTH // 2, 4), np.uint8)
    first, u, second, v = (1, 0, 3, 2) if order == "uyvy" else (0, 1, 2, 3)
    packed[..., first], packed[..., second] = bright[:, ::2], bright[:, 1::2]
    packed[..., u], packed[..., v] = blue, red
    found = raw_pixels(raw(packed, encoding, 2 * WIDTH))
    np.testing.assert_allclose(found, by_definition(), atol=2)


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
def test_both_orders_of_semi_planar_yuv420(encoding: str) -> None:
    bright, blue, red = planes()
    pair = (blue, red) if encoding == "nv12" else (red, blue)
    colours = np.stack(pair, axis=2).reshape(HEIGHT // 2, WIDTH)
    found = raw_pixels(raw(np.vstack([bright, colours]), encoding, WIDTH))
    np.testing.assert_allclose(found, by_definition(), atol=2)


def test_the_last_row_may_lack_its_padding() -> None:
    padded = np.pad(RGB.reshape(HEIGHT, -1), ((0, 0), (0, 5)))
    data = padded.tobytes()[:-5]
    message = CameraMessage(RAW, 0, "", "rgb8", memoryview(data), WIDTH, HEIGHT, 3 * WIDTH + 5)
    np.testing.assert_array_equal(raw_pixels(message), RGB)


@settings(deadline=None)
@given(
    st.sampled_from([*ENCODINGS, "32FC1", "16uc1", ""]),
    st.integers(0, 2**32 - 1) | st.integers(0, 20),
    st.integers(0, 2**32 - 1) | st.integers(0, 20),
    st.integers(0, 2**32 - 1) | st.integers(0, 200),
    st.binary(max_size=2000),
)
def test_any_numbers_give_a_picture_or_an_error(
    encoding: str, width: int, height: int, step: int, data: bytes
) -> None:
    message = CameraMessage(RAW, 0, "", encoding, memoryview(data), width, height, step)
    try:
        found = raw_pixels(message)
    except BrokenBagError:
        return
    assert found.shape == (height, width, 3)


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if "16" not in name])
@pytest.mark.parametrize("padding", [0, 8])
def test_large_pictures_are_converted_piece_by_piece_as_at_once(
    encoding: str, padding: int
) -> None:
    """Pieces of rows, which OpenCV converts in one thread, into memory that is taken again."""
    width, height, step = 642, 412, 4 * 642 + padding
    data = np.random.default_rng(0).integers(0, 256, step * height * 2, dtype=np.uint8).tobytes()
    message = CameraMessage(RAW, 0, "", encoding, memoryview(data), width, height, step)
    np.testing.assert_array_equal(raw_pixels(message, ReadBuffer()), raw_pixels(message))


# ---- compressed -------------------------------------------------------------------------------


def compressed(data: bytes, encoding: str) -> CameraMessage:
    return CameraMessage(COMPRESSED, 0, "", encoding, memoryview(data))


def encoded(suffix: str, rgb: NDArray[Any]) -> bytes:
    return cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.mark.parametrize(
    "encoding", ["png", "bgr8; png compressed bgr8", "rgb8; png compressed ", ""]
)
def test_png(encoding: str) -> None:
    np.testing.assert_array_equal(
        compressed_pixels(compressed(encoded(".png", RGB), encoding)), RGB
    )


def test_png_of_16_bits() -> None:
    deep = RGB.astype(np.uint16) * 257
    found = compressed_pixels(compressed(encoded(".png", deep), "bgr16; png compressed bgr16"))
    np.testing.assert_array_equal(found, deep)


@pytest.mark.parametrize(
    "encoding", ["jpeg", "bgr8; jpeg compressed bgr8", "rgb8; jpeg compressed bgr8"]
)
def test_jpeg_as_a_plain_decoder_has_it(encoding: str) -> None:
    data = encoded(".jpg", cv2.resize(RGB, (64, 48)))
    expected = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB)
    np.testing.assert_allclose(compressed_pixels(compressed(data, encoding)), expected, atol=3)


def test_an_encoder_that_took_red_for_blue_is_undone() -> None:
    data = encoded(".png", RGB[..., ::-1])
    found = compressed_pixels(compressed(data, "rgb8; png compressed rgb8"))
    np.testing.assert_array_equal(found, RGB)


@pytest.mark.parametrize(
    ("data", "encoding", "says"),
    [
        (encoded(".png", RGB), "32FC1; compressedDepth png", "a depth map"),
        (encoded(".png", RGB)[:60], "png", "damaged"),
        (encoded(".jpg", RGB)[:-30], "jpeg", "damaged"),
        (b"GIF89a", "gif", "neither JPEG nor PNG"),
        (b"", "jpeg", "neither JPEG nor PNG"),
    ],
)
def test_what_is_no_whole_picture_is_refused(data: bytes, encoding: str, says: str) -> None:
    with pytest.raises(BrokenBagError, match=says):
        compressed_pixels(compressed(data, encoding))
