"""Damaged bags, sixty of the thousand that `damaged_bags.py` makes of a seed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import damaged_bags


def test_damaged_bags_are_read_up_to_their_damage() -> None:
    """In a process of its own, which limits its memory and its time."""
    done = subprocess.run(
        [sys.executable, damaged_bags.__file__, "--count", "64", "--seed", "3"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=Path(damaged_bags.__file__).parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "64 damaged bags" in done.stdout


def test_a_reader_that_loses_pictures_would_be_found(tmp_path: Path) -> None:
    bag = next(one for one in damaged_bags.whole_bags(tmp_path) if one.name == "none.mcap")
    shorter = tmp_path / "none.mcap"
    shorter.write_bytes(bag.data[: bag.ends[2]])
    assert damaged_bags.check(bag, shorter, bag.ends[2], len(bag.data)) == ""
    problem = damaged_bags.check(bag, shorter, bag.ends[5], len(bag.data))
    assert "pictures [3, 4] end before" in problem
