"""docs/fidelity.md: what its tables name is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from roadshift.adapt.methods import find_method, resolve_config
from roadshift.adapt.run.config import RunConfig

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "fidelity.md").read_text()
COLUMNS = ["code", "setting", "deviation"]
# The equations of each paper that the page says are at hand.
EQUATIONS = {
    "IAPC": {1, 4, 5, 6, *range(8, 14)},
    "LD": {2, 3, 4, 6, 7},
    "ATP and DAS3": set(range(2, 12)),
}
METHOD_OF = {
    "IAPC": "iapc",
    "LD": "ld",
    "ATP and DAS3": "atp",
    "Baselines": "tent",
    "Source models": "supervised",
}


def tables() -> dict[str, list[list[str]]]:
    """The cells of each section's table, without its head."""
    found: dict[str, list[list[str]]] = {}
    for section in PAGE.split("\n## ")[1:]:
        rows = [
            [cell.strip() for cell in line.strip("|").split(" | ")]
            for line in section.splitlines()
            if line.startswith("|")
        ]
        assert rows[0][1:] == COLUMNS, section.splitlines()[0]
        found[section.splitlines()[0]] = [[c.strip(" |") for c in row] for row in rows[2:]]
    return found


TABLES = tables()
ROWS = [(section, row) for section, rows in TABLES.items() for row in rows]
SYMBOLS = sorted(set(re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGE)))


@cache
def defined(path: str) -> set[str]:
    """Functions, classes, methods and constants of a file."""
    names = set[str]()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_each_table_has_a_method_and_each_method_a_table() -> None:
    assert list(METHOD_OF) == list(TABLES)


@pytest.mark.parametrize(("path", "symbol"), SYMBOLS, ids=lambda value: str(value))
def test_the_code_that_is_named_is_there(path: str, symbol: str) -> None:
    assert symbol in defined(path)


@cache
def published(method: str) -> RunConfig:
    """The settings of a method's `paper` variant."""
    asked = [f"{method}.variant=paper"] if "paper" in find_method(method).presets else []
    return resolve_config(method, assignments=asked)


def value_of(name: str, method: str) -> Any:
    """A setting of the `paper` variant; that of a run, of ``method``'s."""
    room, _, key = name.partition(".")
    if room in ("training", "augment", "negative_learning"):
        return getattr(getattr(published(method), room), key)
    if not key:
        return getattr(published(method), room)
    return published(room).method_config[key]


@pytest.mark.parametrize(("section", "row"), ROWS, ids=lambda value: str(value)[:40])
def test_the_settings_that_are_named_are_there_with_the_numbers_that_are_given(
    section: str, row: list[str]
) -> None:
    for name, number in re.findall(r"`([\w.]+)`(?: (\d[\d.,x]*\d|\d))?", row[2]):
        value = value_of(name, METHOD_OF[section])
        if "x" in number:
            assert tuple(value) == tuple(map(int, number.split("x")))
        elif number:
            assert value == pytest.approx(float(number.replace(",", "")))


@pytest.mark.parametrize(("section", "row"), ROWS, ids=lambda value: str(value)[:40])
def test_every_row_says_where_it_is_and_what_differs(section: str, row: list[str]) -> None:
    assert len(row) == 1 + len(COLUMNS)
    what, code, setting, deviation = row
    assert what, section
    assert deviation, what
    assert "`" in code + setting or "not there" in deviation


@pytest.mark.parametrize("section", EQUATIONS)
def test_every_equation_at_hand_is_in_the_tables(section: str) -> None:
    found = set[int]()
    for row in TABLES[section]:
        for first, end in re.findall(r"eq\. (\d+)(?:-(\d+))?", row[0]):
            found |= set(range(int(first), int(end or first) + 1))
    assert found == EQUATIONS[section]
