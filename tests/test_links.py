"""Links of the Markdown pages: every file and every heading that one leads to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md"))
    if not page.name.endswith("_page.md")  # parts of pages in docs/results/
)
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
MODULE = re.compile(
    r"(?<![\w./])(?:adapt|benchmarks|commands|export|runtime|scenes|tests)/[\w/]+\.(?:py|sh|md)\b"
)
TO_BE_WRITTEN = {  # by the reader
    "adapt/black_boxes/road_model.py",
    "adapt/methods/max_squares.py",
    "adapt/networks/road_net.py",
    "runtime/engines/npu.py",
    "runtime/frames/gige.py",
}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", FENCE.sub("", page), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        number = 0
        while (anchor := f"{name}-{number}" if number else name) in found:
            number += 1
        found.add(anchor)
    return found


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere, as they are written."""
    text = CODE.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))
    wrong = []
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (
            anchor and anchor not in anchors(target.read_text(encoding="utf-8"))
        ):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda p: p.name
)
def test_every_file_of_the_code_that_a_page_names_is_there(page: Path) -> None:
    named = set(MODULE.findall(page.read_text(encoding="utf-8"))) - TO_BE_WRITTEN
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A `b` c's\n\n# Twice\n\n# Twice\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#a-b-cs) [b](other.md#twice-1) [c](https://example.org/no.md) `[d](no.md)`\n"
        "[e](no.md) [f](other.md#twice-2)\n",
        encoding="utf-8",
    )
    assert broken(page) == ["no.md", "other.md#twice-2"]
