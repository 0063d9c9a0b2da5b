"""Files of collected frames say what they are, and a cut one is told."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from roadshift.runtime.collecting.appearance import LENGTH
from roadshift.runtime.collecting.frame_files import (
    KeptFrame,
    drive_name,
    drive_number,
    encode_frame,
    frame_name,
    is_frame_name,
    read_frame_file,
)
from roadshift.runtime.frames.images import read_image, write_image
from roadshift.runtime.pictures.natural_order import natural_key

BEGAN = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def frame(classes: int = 3) -> KeptFrame:
    vector = np.random.default_rng(1).normal(0, 1, LENGTH).astype(np.float16).astype(np.float32)
    name = frame_name(drive_name(7, BEGAN), 12.345)
    return KeptFrame(name, 0, 12.345, 1.25, vector, dict.fromkeys(range(classes), 0.25))


@pytest.mark.parametrize("classes", [0, 3, 255])
def test_a_file_says_what_was_known_and_is_a_whole_picture(tmp_path: Path, classes: int) -> None:
    path = tmp_path / frame().name
    path.write_bytes(encode_frame(IMAGE, frame(classes)))
    found = read_frame_file(path)
    assert found.record() == {**frame(classes).record(), "size": path.stat().st_size}
    assert read_image(path).shape == IMAGE.shape


def test_a_file_that_is_cut_anywhere_is_told(tmp_path: Path) -> None:
    data = encode_frame(IMAGE, frame())
    path = tmp_path / frame().name
    for length in {*range(0, len(data), 97), len(data) - 1}:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="it"):
            read_frame_file(path)
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))  # a hole
    with pytest.raises(ValueError, match="cut"):
        read_frame_file(path)


def test_another_programs_jpeg_is_told(tmp_path: Path) -> None:
    write_image(tmp_path / "x.jpg", IMAGE)
    with pytest.raises(ValueError, match="comment"):
        read_frame_file(tmp_path / "x.jpg")


def test_names_are_in_the_order_of_time_even_where_the_clock_was_set_back() -> None:
    later = datetime(1970, 1, 1, tzinfo=timezone.utc)
    names = [
        frame_name(drive_name(number, began), time_s)
        for number, began in ((9, BEGAN), (10, later))
        for time_s in (0, 0.1, 9.99, 10, 100_000)
    ]
    assert names == sorted(names) == sorted(names, key=lambda name: natural_key(Path(name)))
    assert all(map(is_frame_name, names))
    assert [drive_number(name) for name in names] == [9] * 5 + [10] * 5
