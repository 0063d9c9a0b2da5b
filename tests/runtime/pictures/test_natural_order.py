"""Natural order: total over any names, numbers by value, chapters and times in order."""

from __future__ import annotations

import itertools
import random
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from roadshift.runtime.folders.folder_contents import folder_contents
from roadshift.runtime.pictures.natural_order import natural_key


def in_order(names: list[str]) -> list[str]:
    return [str(path) for path in sorted(map(PurePath, names), key=natural_key)]


ORDERS: dict[str, list[str]] = {
    "numbers": ["frame_2.png", "frame_10.png", "frame_0100.png"],
    "none before some": ["clip.mp4", "clip2.mp4", "clip10.mp4"],
    "copies": ["clip.mp4", "clip (1).mp4", "clip (2).mp4", "clip (10).mp4"],
    "folders side by side": ["drive/2.png", "drive/10.png", "drive2/1.png", "drive10/1.png"],
    "files beside folders": ["a.png", "a/1.png", "a2.png", "a2/1.png", "b.png"],
    "leading zeros": ["01.png", "1.png", "2.png"],
    "capitals": ["IMG_1.JPG", "img_2.jpg", "IMG_3.JPG"],
    "gopro": ["GH010001.MP4", "GH020001.MP4", "GH010002.MP4", "GH020002.MP4", "GH010010.MP4"],
    "gopro, two codecs": ["GX010008.MP4", "GX020008.MP4", "GH010009.MP4", "GX010010.MP4"],
    "gopro of old": [
        *("GOPR0001.MP4", "GP010001.MP4", "GP020001.MP4"),
        *("GOPR0002.MP4", "GP010002.MP4", "GOPR0010.MP4"),
    ],
    "gopro's frames": [
        "GOPR0475_frame_000041_rgb_anon.png",
        "GOPR0475_frame_000900_rgb_anon.png",
        "GP010475_frame_000002_rgb_anon.png",
        "GOPR0476_frame_000001_rgb_anon.png",
    ],
    "gopro's folders": ["100GOPRO/GH010999.MP4", "101GOPRO/GH010001.MP4", "101GOPRO/GH020001.MP4"],
    "dates": ["2024-01-31_23-59-58.mp4", "2024-02-01_00-00-03.mp4", "2024-10-01_00-00-00.mp4"],
    "dashcam": ["20240131_235958_NF.mp4", "20240201_000003_NF.mp4", "20240201_000103_EF.mp4"],
    "half days": [
        "Recording 2024-01-01 at 12.30.00 AM.mov",
        "Recording 2024-01-01 at 1.05.00 AM.mov",
        "Recording 2024-01-01 at 11.59.59 AM.mov",
        "Recording 2024-01-01 at 12.00.00 PM.mov",
        "Recording 2024-01-01 at 1.00.00 PM.mov",
    ],
    "seconds": ["1403636579.5.png", "1403636579.76.png", "1403636579.8.png", "1403636580.1.png"],
    "versions": ["v1.2/a.png", "v1.10/a.png", "v2.0/a.png"],
    "long numbers": ["7.png", f"{'9' * 60}.png", f"1{'0' * 60}.png"],
    "digits of other scripts": ["x٢.png", "x3.png", "x١٠.png", "x².png"],
}


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_recordings(name: str) -> None:
    wanted = ORDERS[name]
    for seed in range(5):
        shuffled = wanted.copy()
        random.Random(seed).shuffle(shuffled)
        assert in_order(shuffled) == wanted


def test_a_run_of_5000_digits_has_a_place() -> None:
    assert in_order(["1" * 5000, "2", "1" * 4999]) == ["2", "1" * 4999, "1" * 5000]


PIECES = (
    *("", "drive", "clip", "0", "1", "2", "10", "007", "²", "٣", "½", "é", "\udce9", ".", "_", " "),
    *("GH010001", "GOPR0001", "GP010001", "123456789.5", "1.00.00 PM", "Ⅷ", "९", "𝟚", "-", "a"),
)
pieces = st.sampled_from(PIECES)
names = st.lists(st.text(max_size=4) | pieces, max_size=5).map("".join)
paths = st.lists(
    names.map(lambda name: name.replace("/", "").replace("\0", "")), min_size=1, max_size=3
).map(lambda parts: PurePath(*parts))


@given(paths, paths, paths)
def test_the_order_is_total(a: PurePath, b: PurePath, c: PurePath) -> None:
    one, two, three = map(natural_key, (a, b, c))
    assert (one < two) + (two < one) + (a == b) == 1  # one of three, never an error
    assert one != two or a == b
    if one < two < three:
        assert one < three


@given(st.lists(paths, max_size=8), st.randoms())
def test_the_order_is_that_of_any_shuffle(found: list[PurePath], shuffled: random.Random) -> None:
    again = found.copy()
    shuffled.shuffle(again)
    assert sorted(found, key=natural_key) == sorted(again, key=natural_key)


STEMS = ("drive", "drive2", "drive10", "2", "a2b", "²", "٣", "a b", "x-1", ".5x", "GH010002", "é")


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(STEMS, 2)])
def test_any_two_folders_side_by_side_are_listed(tmp_path: Path, first: str, second: str) -> None:
    for name in (first, second):
        (tmp_path / f"x{name}").mkdir()
        (tmp_path / f"x{name}" / "0.mp4").write_bytes(b"")
        (tmp_path / f"x{name}.mp4").write_bytes(b"")
    assert len(folder_contents(tmp_path).files) == 4


@given(st.integers(0, 10**30), st.integers(0, 10**30), st.sampled_from(["", "a", "frame_", "é"]))
def test_numbers_go_by_value(a: int, b: int, before: str) -> None:
    first, second = (natural_key(PurePath(f"{before}{n}.png")) for n in (a, b))
    assert (first < second) == (a < b)


CHAPTERS = [f"GH{chapter:02d}{n:04d}.MP4" for n in (1, 2, 11) for chapter in (1, 2, 3)]


@given(st.permutations(CHAPTERS))
def test_chapters_stay_with_their_recording(shuffled: list[str]) -> None:
    assert in_order(shuffled) == CHAPTERS
