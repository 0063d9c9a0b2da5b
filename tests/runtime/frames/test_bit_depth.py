"""White of 16-bit pictures: one for a folder, whichever of its pictures is read first, and why."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.runtime.frames import images, open_frames
from roadshift.runtime.frames.images import read_frame_image, read_image


def write(folder: Path, brightest: list[int], pattern: str = "{}.png") -> list[Path]:
    """One 16-bit picture for each largest value, named by its place."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / pattern.format(i) for i in range(len(brightest))]
    for path, value in zip(paths, brightest, strict=True):
        assert cv2.imwrite(str(path), np.array([[0, value // 2, value]], np.uint16))
    return paths


def whites(paths: list[Path]) -> list[int]:
    return [int(read_frame_image(path).max()) for path in paths]


@settings(max_examples=40, deadline=None)
@given(
    brightest=st.lists(st.sampled_from((0, 900, 2470, 4095, 4096, 30_000)), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
    suffix=st.sampled_from((".png", ".tiff")),
)
def test_pictures_of_a_folder_are_scaled_alike_in_any_order(
    brightest: list[int], order: object, suffix: str
) -> None:
    scale = 65_535 if max(brightest) > 4095 else 4095
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder) / "drive", brightest, f"frame_{{}}{suffix}")
        places = list(range(len(paths)))
        order.shuffle(places)  # type: ignore[attr-defined]
        found = dict(zip(places, whites([paths[i] for i in places]), strict=True))
    for i, value in enumerate(brightest):
        assert found[i] == pytest.approx(value * 255 / scale, abs=0.51)


def test_a_dark_frame_of_sixteen_bits_stays_dark_wherever_it_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = write(tmp_path / "images", [50_000, 60_000, 40_000, 2470, 55_000])
    said: list[str] = []
    source = open_frames(tmp_path / "images", on_skip=said.append)
    assert [int(frame.image.max()) for frame in source] == [195, 233, 156, 10, 214]
    assert [int(frame.image.max()) for frame in source.only([3])] == [10]
    assert [int(frame.image.max()) for frame in open_frames(paths[3])] == [10]
    assert said == []
    assert caplog.text == ""
    assert read_image(paths[3]).max() == 154  # by itself it is of twelve bits


def test_few_pictures_are_decoded_to_decide_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(tmp_path, [3000] * 100)
    decoded: list[int] = []
    real = cv2.imdecode

    def spy(data: np.ndarray, flags: int) -> np.ndarray:
        decoded.append(len(data))
        return real(data, flags)

    monkeypatch.setattr(images.cv2, "imdecode", spy)
    assert whites(paths) == [187] * 100
    assert len(decoded) <= 100 + 8


def test_eight_bits_and_bright_pictures_make_nothing_be_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(tmp_path, [60_000, 0])
    cv2.imwrite(str(tmp_path / "e.png"), np.full((1, 3), 200, np.uint8))

    def listed(_: Path) -> None:
        raise AssertionError("the folder is listed")

    monkeypatch.setattr(Path, "iterdir", listed)
    assert whites([*paths, tmp_path / "e.png"]) == [233, 0, 200]


def test_a_bright_picture_met_later_settles_it_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = [2000] * 40
    values[20], values[30] = 20_000, 30_000  # neither of them among the eight
    found = whites(write(tmp_path, values))
    assert found[:20] == [125] * 20
    assert (found[20], found[30]) == (78, 117)
    assert set(found[21:30] + found[31:]) == {8}
    assert caplog.text.count("are taken as 16 bits from here on") == 1
    assert "20.png has values up to 20000" in caplog.text


def test_pictures_of_other_kinds_and_damaged_ones_decide_nothing(tmp_path: Path) -> None:
    paths = write(tmp_path, [2000, 2000])
    write(tmp_path, [60_000], "{}_depth.png")
    write(tmp_path, [60_000], "{}.tiff")
    write(tmp_path / "other", [60_000])
    (tmp_path / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "8.png").write_bytes(b"")
    (tmp_path / "9.png").mkdir()
    cv2.imwrite(str(tmp_path / "6.png"), np.full((1, 3), 255, np.uint8))
    assert whites(paths) == [125, 125]
