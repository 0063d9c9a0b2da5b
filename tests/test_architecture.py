"""The page on the architecture: its paths are there, its arrows are imports, its walks go down."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
HOUSE: dict[str, Any] = runpy.run_path(str(ROOT / "tests" / "test_boundaries.py"))
TO_BE_WRITTEN = {  # by the reader
    "adapt/black_boxes/road_model.py",
    "adapt/methods/max_squares.py",
    "adapt/networks/road_net.py",
    "runtime/engines/npu.py",
    "runtime/frames/gige.py",
}
GONE = {"adapt/losses/kernels/", "adapt/scenes/"}  # rooms of the house as it was
PATH = re.compile(r"`((?:\w+/)+(?:\w+\.\w+)?|\w+\.py)`")
Graph = Mapping[str, set[str]]


def test_every_path_is_there() -> None:
    named = set(PATH.findall(PAGE))
    assert len(named) > 60
    assert {path for path in named if not (ROOT / path).exists()} == TO_BE_WRITTEN | GONE


def test_every_name_said_to_be_in_a_module_is_in_it() -> None:
    found = re.findall(r"`(\w+)`(?: and `(\w+)`)? (?:of|in|\() ?`([\w/]+\.py)`", PAGE)
    assert len(found) > 3
    for *names, path in found:
        if path not in TO_BE_WRITTEN:
            source = (ROOT / path).read_text(encoding="utf-8")
            assert [name for name in names if not re.search(rf"\b{name}\b", source)] == []


# --- the drawing of the rooms --------------------------------------------------------------------


def arrows() -> set[tuple[str, str]]:
    """Arrows of the drawing of the rooms, by the names of its boxes."""
    drawing = next(block for block in PAGE.split("```mermaid")[1:] if "subgraph" in block)
    found = re.findall(r"^ *(\w+)(?:\[.*?\])? --> (\w+)", drawing.partition("```")[0], re.MULTILINE)
    assert len(found) == drawing.partition("```")[0].count("-->")
    return set(found)


def box_of(name: str) -> str:
    """The room that a module is drawn as; its floor where it lies in no room."""
    parts = name.split(".")
    if len(parts) > 2 and parts[2] in HOUSE["INNER"].get(parts[1], ()):
        return f"{parts[1]}_{parts[2]}"
    return str(HOUSE["room_of"](name) or "cli")


def floor_of(box: str) -> str:
    return box.partition("_")[0]


@cache
def module_imports() -> dict[str, set[str]]:
    """The modules that each module imports, but for the lazy names of the root."""
    graph = {}
    for name, path in HOUSE["NAMES"].items():
        if name != "roadshift":
            imported = HOUSE["imports"]((ROOT / path).read_text(encoding="utf-8"), path)
            found = {HOUSE["module_of"](other) for other in imported}
            graph[name] = found - {None, name, "roadshift"}
    return graph


def room_imports() -> set[tuple[str, str]]:
    """Pairs of boxes between which imports run: of rooms on one floor, and of floors."""
    pairs = {(box_of(a), box_of(b)) for a, below in module_imports().items() for b in below}
    within = {(a, b) for a, b in pairs if floor_of(a) == floor_of(b) and "_" in a and "_" in b}
    between = {(floor_of(a), floor_of(b)) for a, b in pairs}
    return {(a, b) for a, b in within | between if a != b}


def reached(graph: Graph, start: str) -> set[str]:
    """Names that the ways from ``start`` lead to."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def as_graph(pairs: set[tuple[str, str]]) -> Graph:
    return {a: {b for start, b in pairs if start == a} for a, _ in pairs}


def test_every_arrow_is_an_import() -> None:
    assert arrows() - room_imports() == set()


def test_every_import_between_rooms_runs_along_arrows() -> None:
    drawn = as_graph(arrows())
    assert {(a, b) for a, b in room_imports() if b not in reached(drawn, a)} == set()


def test_every_room_is_drawn() -> None:
    rooms = {f"{floor}_{room}" for floor, inner in HOUSE["INNER"].items() for room in inner}
    assert {room for room in rooms if f"{room}[" not in PAGE} == set()


# --- the walks -----------------------------------------------------------------------------------


def walk(title: str) -> Iterator[tuple[int, str, int | None]]:
    """Number, path and caller's number of each line of a walk."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    for number, path, caller in re.findall(
        r"^(\d+)\. `([\w/]+\.py)`[:,].*?(?:\((\d+)\))?$", section, re.MULTILINE
    ):
        yield int(number), path, int(caller) if caller else None


def height(path: str) -> tuple[int, int]:
    """The floor of a module, and the level of its room there."""
    name = HOUSE["name_of"](Path(path))
    level = HOUSE["level_of"](name)
    return HOUSE["ROOMS"].index(HOUSE["room_of"](name)), level[1] if level else 0


@cache
def module_ways() -> dict[str, set[str]]:
    """The modules that each module imports, or names in a string to have them opened."""
    graph = {}
    for name, imported in module_imports().items():
        tree = ast.parse((ROOT / HOUSE["NAMES"][name]).read_text(encoding="utf-8"))
        named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        graph[name] = imported | (named & HOUSE["NAMES"].keys())
    return graph


@pytest.mark.parametrize("title", ["A frame through `adapt`", "A frame through `run`"])
def test_a_walk_goes_down_from_the_command(title: str) -> None:
    lines = list(walk(title))
    assert [number for number, _, _ in lines] == list(range(1, 11))
    assert [caller for _, _, caller in lines].count(None) == 1
    paths = {number: path for number, path, _ in lines}
    graph = module_imports()
    for number, path, caller in lines[1:]:
        assert caller is not None
        assert caller < number
        assert height(path) <= height(paths[caller])
        above, below = (HOUSE["name_of"](Path(one)) for one in (paths[caller], path))
        assert above not in reached(graph, below)
        assert below in reached(module_ways(), above), f"{title}: {above} has no way to {below}"
