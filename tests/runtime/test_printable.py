"""Text on the terminal: no control character of a name or a message gets there."""

from __future__ import annotations

import io
import json
import os
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from roadshift.runtime.console import terminal
from roadshift.runtime.printable import encodable, one_line, printable

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=60)  # surrogates, too
NASTY = "\x1b[31m\x07\x08\x7f\x9b2J\x00\r\u202e\u2066\u200b\u2028\ufeff\udcff\ud800\U000e0041"


def obeyed(text: str) -> list[str]:
    """The characters that a terminal could obey or that cannot be encoded."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


@given(ANY_TEXT)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    assert set(obeyed(printable(text))) <= set("\n\t\u200c\u200d")
    assert set(obeyed(one_line(text))) <= set("\u200c\u200d")
    printable(text).encode("utf-8")


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"])))
def test_letters_marks_and_symbols_of_all_scripts_stay(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("straße 走行 \u0930\u093e\u0938\u094d\u0924\u093e 🚗", None),
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("clear\x9b2J\x7f", r"clear\x9b2J\x7f"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        (os.fsdecode(b"fr\xfcher.png"), r"fr\xfcher.png"),
        ("tag\U000e0041", r"tag\U000e0041"),
        ("[red]x[/red] C:\\new", None),
    ],
)
def test_the_rest_is_shown_as_an_escape(text: str, shown: str | None) -> None:
    assert printable(text) == one_line(text) == (text if shown is None else shown)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n  ", " \r", "\u2028", "\x0b", "\x85", "\x1c"])
def test_a_line_is_one_line(end: str) -> None:
    assert one_line(f" refused:{end}error: forged{end}") == "refused: error: forged"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_whatever_a_command_prints_goes_through_it(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables, lines and notes; on a terminal only what rich itself writes is obeyed."""
    nasty, screen = f"[red]name{NASTY}[/]\nerror: forged", io.StringIO()
    made = Console(file=screen, force_terminal=is_terminal, color_system=None, width=400)
    monkeypatch.setattr(terminal, "console", lambda _=120: made)
    monkeypatch.setattr(terminal, "_stderr", made)
    terminal.table(f"\n{nasty}", [nasty], [[nasty], [[nasty, nasty]]])
    terminal.say(nasty, nasty)
    terminal.note(nasty)
    text = screen.getvalue()
    if is_terminal:
        assert "\x1b[31m" not in text
    else:
        assert set(obeyed(text)) <= {"\n"}
    assert "[red]name\\x1b[31m" in text
    assert not any(line.startswith("error:") for line in text.splitlines())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=8,
)


@given(JSON)
def test_a_document_with_any_names_is_utf_8_and_else_the_same(document: object) -> None:
    stored = json.dumps(encodable(document), ensure_ascii=False)
    stored.encode("utf-8")
    if not re.search("[\ud800-\udfff]", json.dumps(document, ensure_ascii=False)):
        assert json.loads(stored) == document


def test_undecodable_bytes_of_a_document_are_told_apart() -> None:
    document = {"w\udce4": [os.fsdecode(b"fr\xfcher"), ("ä", 1)], "n": None}
    assert encodable(document) == {r"w\xe4": [r"fr\xfcher", ["ä", 1]], "n": None}
