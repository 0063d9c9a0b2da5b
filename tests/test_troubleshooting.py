"""docs/troubleshooting.md: every exit code is told, and sentences on signatures are ours."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from roadshift.runtime import errors
from roadshift.runtime.bundle import MANIFEST_NAME
from roadshift.runtime.signing.trust import TRUST_NAME

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
NAMES = {"MANIFEST_NAME": MANIFEST_NAME, "TRUST_NAME": TRUST_NAME}


def texts() -> Iterator[str]:
    """The texts of the modules about signatures and slots, with … for what differs."""
    for folder in ("runtime/signing", "runtime/slots", "runtime/bundle"):
        for path in (ROOT / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(map(part, node.values))


def part(value: ast.expr) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    named = value.value if isinstance(value, ast.FormattedValue) else value
    return NAMES.get(named.id, "…") if isinstance(named, ast.Name) else "…"


def quoted(section: str) -> list[str]:
    body = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [line[2:] for line in body.splitlines() if line.startswith("> ")]


SENTENCES = quoted("Signatures and slots")


def test_every_exit_code_is_told() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.RoadshiftError)}
    assert {1, 3, 5, 6, 7, 8, 9, 130} <= codes
    intro = PAGE.partition("A traceback")[0]
    told = {
        int(word) for word in intro.translate(dict.fromkeys(b"(;,", " ")).split() if word.isdigit()
    }
    assert codes <= told


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_on_signatures_and_slots_is_one_that_is_said(sentence: str) -> None:
    said = list(texts())
    pieces = [piece.strip(" ;") for piece in sentence.rstrip(".").split("…") if len(piece) > 3]
    assert pieces
    assert any(all(piece in text for piece in pieces) for text in said)


def test_there_are_such_sentences() -> None:
    assert len(SENTENCES) >= 12
