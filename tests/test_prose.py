"""The first word of every docstring: it begins a noun phrase or an imperative."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# They begin a clause that a reader can only place after having read what it is a part of.
REFUSED = {"What", "Whether", "How", "Where", "Which", "Who", "When", "Why", "Of"}


def modules() -> list[Path]:
    """Every Python file of the checkout."""
    return [
        path
        for path in sorted(ROOT.rglob("*.py"))
        if (first := path.relative_to(ROOT).parts[0]) != "build" and not first.startswith(".")
    ]


def refused_in(source: str) -> Iterator[str]:
    """Names of what has a docstring with a refused first word, and that docstring's first line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = (ast.get_docstring(node) or "").lstrip()
            word = re.match(r"\W*(\w*)", text)
            if word is not None and word[1] in REFUSED:
                yield f"{getattr(node, 'name', 'the module')}: {text.splitlines()[0]}"


def test_no_docstring_begins_with_a_clause() -> None:
    found = [
        f"{path.relative_to(ROOT)}, {refused}"
        for path in modules()
        for refused in refused_in(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_every_kind_of_docstring_is_looked_at() -> None:
    source = (
        '"""What it is."""\n\nclass A:\n    """How it goes."""\n\n'
        '    async def b(self):\n        """Of all."""\n\n'
        '        def c():\n            """Whatever happens, a noun phrase."""\n'
    )
    assert [line.partition(":")[0] for line in refused_in(source)] == ["the module", "A", "b"]
    assert len(modules()) > 500
