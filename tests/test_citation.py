"""CITATION.cff says of the package what pyproject.toml says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def value(file: str, pattern: str) -> str:
    """The first group of the one line that matches."""
    found = re.findall(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == 1, f"{file}: {found}"
    return str(found[0])


@pytest.mark.parametrize("key", ["version", "license"])
def test_the_citation_agrees_with_the_package(key: str) -> None:
    cited = value("CITATION.cff", rf'^{key}: "?([^"\n]+?)"?$')
    assert cited == value("pyproject.toml", rf'^{key} = "(.+)"$')
