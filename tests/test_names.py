"""Names of classes: each of the package and its benchmarks stands for one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
APART = ("tests", "docs", "build")


def package() -> dict[str, str]:
    """The source of every module of the package and of its benchmarks, by its path."""
    found = [path.relative_to(ROOT) for path in sorted(ROOT.rglob("*.py"))]
    return {
        path.as_posix(): (ROOT / path).read_text(encoding="utf-8")
        for path in found
        if path.parts[0] not in APART and not path.parts[0].startswith(".")
    }


def defined_twice(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Class names that are defined more than once, each with the places, line by line."""
    places = defaultdict(list)
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path}:{node.lineno}")
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_class_name_has_two_meanings() -> None:
    sources = package()
    assert len(sources) > 300
    assert defined_twice(sources) == {}


def test_a_name_that_is_defined_twice_is_found_wherever_it_stands() -> None:
    sources = {
        "one.py": "class Look: ...\nclass _File: ...\nclass Only: ...\n",
        "two.py": "class _File: ...\nif True:\n    class Look: ...\n",
    }
    assert defined_twice(sources) == {
        "Look": ["one.py:1", "two.py:3"],
        "_File": ["one.py:2", "two.py:1"],
    }
