"""Values read from the pages of an SQLite file are those that SQLite reads."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from roadshift.runtime.bags.regions import BrokenBagError
from roadshift.runtime.bags.sqlite_pages import TablePages

LARGEST = 2**30
TABLE = "CREATE TABLE messages (id INTEGER PRIMARY KEY, topic_id, timestamp, data BLOB)"
DATA = 3  # the column's number


def table(path: Path, page_size: int, lengths: list[int], *pragmas: str) -> Path:
    """A file with values of these lengths in rows 1, 2, …; its journal is its own business."""
    with closing(sqlite3.connect(path)) as database:
        for pragma in (f"page_size = {page_size}", *pragmas):
            database.execute(f"PRAGMA {pragma}")
        database.execute("CREATE TABLE other (text)")
        database.execute(TABLE)
        rng = np.random.default_rng(len(lengths))
        for row, length in enumerate(lengths, 1):
            value = rng.integers(0, 256, length, np.uint8).tobytes()
            database.execute("INSERT INTO messages VALUES (?, ?, ?, ?)", (row, 7, row << 40, value))
        database.commit()
    return path


def by_sqlite(path: Path) -> dict[int, bytes]:
    """Values by row."""
    with closing(sqlite3.connect(path)) as database:
        return dict(database.execute("SELECT id, data FROM messages"))


def opened(path: Path) -> closing[TablePages]:
    """The pages of `table`."""
    with closing(sqlite3.connect(path)) as database:
        (root,) = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'messages'"
        ).fetchone()
    return closing(TablePages(path, root, DATA, LARGEST))


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
def test_values_of_all_lengths_are_those_that_sqlite_reads(tmp_path: Path, page_size: int) -> None:
    room = page_size - 4
    near = [base + step for base in (page_size - 35, room, 2 * room) for step in range(-30, 4)]
    lengths = [0, 1, 5, *near, *range(1, 3000, 61), 700 * room]
    path = table(tmp_path / "values.db3", page_size, lengths)
    expected = by_sqlite(path)
    with opened(path) as pages:
        assert {row: bytes(pages.read(row)) for row in expected} == expected


def test_values_in_scattered_pages_are_read(tmp_path: Path) -> None:
    path = table(tmp_path / "scattered.db3", 1024, [5000] * 40, "auto_vacuum = FULL")
    with closing(sqlite3.connect(path)) as database:
        database.execute("DELETE FROM messages WHERE id % 3 = 0")
        for row in range(3, 40, 6):
            database.execute(
                "INSERT INTO messages VALUES (?, 7, 0, ?)",
                (row, random.Random(row).randbytes(9000)),
            )
        database.commit()
    expected = by_sqlite(path)
    with opened(path) as pages:
        assert {row: bytes(pages.read(row)) for row in expected} == expected
        with pytest.raises(BrokenBagError, match="no such row"):
            pages.read(6)
        with pytest.raises(BrokenBagError, match="no such row"):
            pages.read(1 << 40)


def test_a_value_stays_while_it_is_held(tmp_path: Path) -> None:
    path = table(tmp_path / "held.db3", 4096, [70_000] * 9)
    expected = by_sqlite(path)
    with opened(path) as pages:
        held = {row: pages.read(row) for row in expected}
        assert {row: bytes(value) for row, value in held.items()} == expected


def test_damaged_pages_give_a_value_or_are_refused(tmp_path: Path) -> None:
    whole = table(tmp_path / "whole.db3", 512, [3000, 40, 900, 7000] * 6).read_bytes()
    damaged, chance = tmp_path / "damaged.db3", random.Random(5)
    refused = 0
    for _ in range(300):
        content = bytearray(whole[: chance.choice([len(whole), chance.randrange(100, len(whole))])])
        for _ in range(chance.randrange(30)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        damaged.write_bytes(content)
        for row in (1, 4, 20):
            refused += not can_read(damaged, row)
    assert 0 < refused < 900


def can_read(path: Path, row: int) -> bool:
    """Tell whether a row of a table at page 3 is read; nothing but `BrokenBagError` is raised."""
    try:
        with closing(TablePages(path, 3, DATA, LARGEST)) as pages:
            pages.read(row)
    except BrokenBagError:
        return False
    return True


def test_text_and_numbers_are_no_values(tmp_path: Path) -> None:
    path = table(tmp_path / "text.db3", 4096, [10])
    with closing(sqlite3.connect(path)) as database:
        database.execute("INSERT INTO messages VALUES (2, 7, 0, 'text')")
        database.execute("INSERT INTO messages VALUES (3, 7, 0, NULL)")
        database.commit()
    with opened(path) as pages:
        for row in (2, 3):
            with pytest.raises(BrokenBagError, match="no blob"):
                pages.read(row)
