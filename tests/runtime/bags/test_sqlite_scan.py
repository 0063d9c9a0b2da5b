"""Bags in SQLite that are cut or have lost pages give the messages whose pages are there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from bag_cases import Picture, pictures, write_ros2
from damaged_bags import page_spans
from roadshift.runtime.bags.bag import read_index
from roadshift.runtime.errors import FrameError
from roadshift.runtime.frames import open_frames

PAGE = 4096
SMALL = pictures(400, 24, 14)  # 1008 bytes: several in a leaf
LARGE = pictures(8, 1280, 720)  # rows of two lie in a leaf, which is behind the first of them


def written(folder: Path, shown: list[Picture]) -> Path:
    """The one file of a bag of the pictures."""
    return next(write_ros2(folder / "whole", shown, "sqlite3").glob("*.db3"))


def alone(path: Path, content: bytes) -> Path:
    """A file without metadata beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read(path: Path, shown: list[Picture]) -> tuple[list[int], list[str]]:
    """Numbers of the pictures that a bag gives, and what is said."""
    numbers, said = {one.tobytes(): number for number, one in enumerate(shown)}, list[str]()
    found = [numbers[one.image.tobytes()] for one in open_frames(path, on_skip=said.append)]
    return found, said


def root_of(path: Path, table: str) -> int:
    """Byte at which a table's first page begins."""
    with closing(sqlite3.connect(path)) as database:
        asked = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (root,) = database.execute(asked, (table,)).fetchone()
    return (int(root) - 1) * PAGE


def without(content: bytes, pages: Iterable[int]) -> bytes:
    """A file of which the pages at these bytes are zeros, as after a power cut."""
    data = bytearray(content)
    for at in pages:
        data[at : at + PAGE] = bytes(PAGE)
    return bytes(data)


@pytest.mark.parametrize("shown", [SMALL, LARGE], ids=["1 KB", "720p"])
def test_a_cut_file_gives_every_message_before_the_cut(
    tmp_path: Path, shown: list[Picture]
) -> None:
    whole = written(tmp_path, shown).read_bytes()
    ends = [end for _, end in page_spans(whole, shown)]
    for percent in (30, 60, 90, 99):
        size = len(whole) * percent // 100
        path = alone(tmp_path / "alone/drive.db3", whole[:size])
        found, said = read(path, shown)
        assert found == [number for number, end in enumerate(ends) if end <= size // PAGE * PAGE]
        assert 0 < len(found) < len(shown)
        assert f"{path} has no whole index" in said[0]
        assert f"is damaged: it ends at byte {size} of {len(whole)}; {len(found)} pict" in said[-1]
        path.unlink()


def test_a_cut_within_the_last_page_is_said_and_gives_no_zeros(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL[:9])
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP INDEX timestamp_idx")
        database.execute("VACUUM")
    path.write_bytes(path.read_bytes()[:-5])
    found, said = read(path, SMALL)
    assert found == list(range(len(found)))
    assert 0 < len(found) < 9
    assert "is damaged: it ends at byte" in said[-1]


def test_leaves_are_found_without_the_pages_that_lead_to_them(tmp_path: Path) -> None:
    whole = written(tmp_path, SMALL)
    content = whole.read_bytes()
    path = alone(tmp_path / "alone/drive.db3", without(content, [root_of(whole, "messages")]))
    found, said = read(path, SMALL)
    assert found == list(range(len(SMALL)))
    assert "is damaged: SQLite cannot read all of it" in said[-1]
    path = alone(tmp_path / "b/drive.db3", without(content, [root_of(whole, "messages")])[:-PAGE])
    assert len(read(path, SMALL)[0]) >= len(SMALL) - 4


def test_a_table_of_several_levels_is_found_whole_before_any_cut(tmp_path: Path) -> None:
    shown = SMALL * 6
    whole = written(tmp_path, shown)
    content = whole.read_bytes()
    path = alone(tmp_path / "alone/drive.db3", content[: len(content) * 9 // 10])
    index = read_index(path)
    assert len(index.messages["/front/image"]) > 0.88 * len(shown)
    numbers = [one.image.tobytes() for one in open_frames(path)]
    assert numbers == [one.tobytes() for one in shown[: len(numbers)]]


@pytest.mark.parametrize("lost", ["the table of tables", "its topics", "both"])
def test_a_file_without_its_schema_is_known_by_its_rows(tmp_path: Path, lost: str) -> None:
    whole = written(tmp_path, SMALL[:40])
    content = bytearray(whole.read_bytes())
    topics = root_of(whole, "topics")
    if lost != "its topics":
        content[100:PAGE] = bytes(PAGE - 100)
    if lost != "the table of tables":
        content = bytearray(without(bytes(content), [topics]))
    path = alone(tmp_path / "alone/drive.db3", bytes(content))
    if lost == "the table of tables":
        assert read(path, SMALL)[0] == list(range(40))
    else:
        with pytest.raises(FrameError, match="SQLite cannot"):
            open_frames(path)


def test_lost_topics_are_taken_from_the_metadata_where_there_is_one(tmp_path: Path) -> None:
    whole = written(tmp_path, SMALL[:40])
    with closing(sqlite3.connect(whole)) as database:
        database.execute("DELETE FROM messages WHERE topic_id = 2")
        database.commit()
    content = without(whole.read_bytes(), [root_of(whole, "topics")])
    whole.write_bytes(content[: len(content) - PAGE])
    metadata = whole.parent / "metadata.yaml"
    text = metadata.read_text()
    with pytest.raises(FrameError):  # two topics: either may be the camera
        open_frames(whole.parent)
    first, behind = text.index("- message_count"), text.rindex("- message_count")
    metadata.write_text(text[:behind] + text[text.index("version:", first) :])
    assert len(read(whole.parent, SMALL)[0]) > 30


def test_rows_whose_chain_of_pages_is_broken_are_left_out(tmp_path: Path) -> None:
    shown = LARGE[:3]
    whole = written(tmp_path, shown).read_bytes()
    begin, end = page_spans(whole, shown)[1]
    at = (begin + end) // 2 // PAGE * PAGE
    for following in (0, 2**31, at // PAGE + 1, at // PAGE):  # the last two: circles
        content = whole[:at] + following.to_bytes(4, "big") + whole[at + 4 : -PAGE]
        found, _ = read_whole_ones(alone(tmp_path / "alone/drive.db3", content), shown)
        assert 0 in found
        assert 1 not in found


def read_whole_ones(path: Path, shown: list[Picture]) -> tuple[list[int], int]:
    """Numbers of the pictures that come as they went in, and how many others come."""
    numbers = {one.tobytes(): number for number, one in enumerate(shown)}
    found = [numbers.get(one.image.tobytes(), -1) for one in open_frames(path)]
    return [number for number in found if number >= 0], found.count(-1)


def test_pages_that_lead_in_a_circle_are_left(tmp_path: Path) -> None:
    whole = written(tmp_path, SMALL)
    root = root_of(whole, "messages")
    content = bytearray(whole.read_bytes())
    for cell in range(int.from_bytes(content[root + 3 : root + 5], "big") // 2):
        at = root + int.from_bytes(content[root + 12 + 2 * cell : root + 14 + 2 * cell], "big")
        content[at : at + 4] = (root // PAGE + 1).to_bytes(4, "big")
    path = alone(tmp_path / "alone/drive.db3", bytes(content[:-PAGE]))
    assert len(read(path, SMALL)[0]) >= len(SMALL) - 4


def test_what_is_no_recording_stays_an_error(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 256, 50_000, np.uint8).tobytes()
    with closing(sqlite3.connect(tmp_path / "other.db3")) as database:
        database.execute("CREATE TABLE other (text)")
        database.executemany("INSERT INTO other VALUES (?)", [("word" * 99,)] * 900)
        database.commit()
    other = (tmp_path / "other.db3").read_bytes()
    for content, says in (
        (noise, "does not begin as an SQLite file"),
        (b"SQLite format 3\0" + noise, "SQLite cannot open it"),
        (other[:100] + noise, "SQLite cannot open it|ends at byte"),
        (other, "no such table: topics"),
        (other[:50_000], "ends at byte 50000"),
        (other[:50], "SQLite cannot open it"),
    ):
        with pytest.raises(FrameError, match=says):
            open_frames(alone(tmp_path / "x/drive.db3", content))


def test_random_pages_give_pictures_or_an_error(tmp_path: Path) -> None:
    whole = written(tmp_path, SMALL[:60]).read_bytes()
    random = np.random.default_rng(9)
    for _ in range(60):
        content = bytearray(whole[: int(random.integers(PAGE, len(whole)))])
        for place in random.integers(100, len(content), int(random.integers(1, 300))):
            content[place] = int(random.choice([0, 1, 5, 13, 255, int(random.integers(256))]))
        path = alone(tmp_path / "x/drive.db3", bytes(content))
        with suppress(FrameError):
            list(open_frames(path))


def test_a_damaged_schema_is_one_sentence(tmp_path: Path) -> None:
    content = bytearray(written(tmp_path, SMALL[:9]).read_bytes())
    at = content.index(b"CREATE TABLE topics") + 3
    for damage in (b"\xb5" * 20, b"`\n`\n`"):
        content[at : at + len(damage)] = damage
        found, said = read(alone(tmp_path / "x/drive.db3", bytes(content)), SMALL)
        assert found == list(range(9))
        assert not any("\n" in sentence for sentence in said)


def test_a_root_that_is_another_tables_is_seen_through(tmp_path: Path) -> None:
    whole = written(tmp_path, SMALL[:40])
    topics, messages = (root_of(whole, name) // PAGE + 1 for name in ("topics", "messages"))
    content = bytearray(whole.read_bytes()[:-PAGE])
    row = b"tablemessagesmessages"  # its first page's number follows
    at = content.index(row) + len(row)
    assert content[at] == messages
    content[at] = topics
    assert len(read(alone(tmp_path / "x/drive.db3", bytes(content)), SMALL)[0]) > 30
