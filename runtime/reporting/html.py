"""Parts of a page: HTML that asks nobody for anything, light and dark, printable, for phones too.

Everything that a caller gives is text and is escaped here; what these functions return is HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ..printable import printable

STYLE = """
:root { color-scheme: light dark; --text: #1c1c1c; --page: #fff; --soft: #5a5a5a; --line: #d5d5d5;
  --good: #1a6b2f; --bad: #a3161b; --series-0: #1f5fa8; --series-1: #a8500b; --series-2: #2b7a34;
  --series-3: #8a3aa0; --series-4: #6b6b00; --series-5: #a01860 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6e6; --page: #161616; --soft: #a8a8a8; --line: #3c3c3c;
    --good: #7fd594; --bad: #ff9a94; --series-0: #7db8f2; --series-1: #f2a765; --series-2: #83d18c;
    --series-3: #d79bea; --series-4: #d3d35a; --series-5: #f492c4 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 72rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word }
figure { margin: 1.5rem 0 }
img { max-width: 100%; height: auto; border: 1px solid var(--line) }
figcaption, .note { color: var(--soft) }
figcaption b { color: var(--text) }
.wide { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse }
caption { text-align: left; color: var(--soft) }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
td.fact, code { overflow-wrap: anywhere }
td.text, td code, th code { overflow-wrap: inherit }
td.long { overflow-wrap: anywhere; min-width: min(18rem, 60vw) }
.good { color: var(--good); font-weight: 600 }
.bad { color: var(--bad); font-weight: 600 }
.classes span { display: inline-block; margin-right: 1rem; white-space: nowrap }
.classes i { display: inline-block; width: .9em; height: .9em; margin-right: .35em;
  border: 1px solid var(--soft); vertical-align: -.1em; print-color-adjust: exact }
svg { max-width: 100%; height: auto }
svg text { fill: var(--text); font: 13px system-ui, sans-serif }
a { color: inherit } summary { cursor: pointer }
@media print {
  :root { --text: #000; --page: #fff; --soft: #333; --line: #999; --good: #000; --bad: #000 }
  body { max-width: none; padding: 0 } nav { display: none } .wide { overflow: visible }
  figure, tr { break-inside: avoid } h2, h3 { break-after: avoid } h2.frame { break-before: page } }
"""

_LONG = 40  # characters, from which on a cell holds a sentence
_LONG_WORD = 24  # characters, from which on a word is a hash or a path, and may be broken

_FETCH_NOTHING = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
    '<link rel="icon" href="data:,">\n'
)


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        source: where it is: a path relative to the page, or a data URI.
        title, caption: for people.
        alt: says what the picture shows to who does not see it.
    """

    source: str
    title: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Section:
    """A heading, HTML below it, then pictures.

    Attributes:
        name: of the anchor that the page's contents lead to; none without.
        of_a_frame: begins a new sheet in print.
    """

    title: str
    body: str = ""
    pictures: Sequence[Picture] = ()
    name: str = ""
    of_a_frame: bool = False


@dataclass(frozen=True)
class Markup:
    """HTML that one of these functions made, as a cell of a table."""

    html: str


def page(title: str, sections: Sequence[Section], *, data: str = "") -> str:
    """The whole page.

    Args:
        data: JSON of what the page shows, for programs; embedded, and not shown. Such a page holds
            its pictures too, and tells browsers to fetch nothing.
    """
    named = [section for section in sections if section.name]
    links = [f'<li><a href="#{escape(s.name)}">{text(s.title)}</a></li>' for s in named]
    contents = f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>\n'
    embedded = data.replace("<", "\\u003c")
    script = f'<script type="application/json" id="data">{embedded}</script>\n' if data else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        + (_FETCH_NOTHING if data else "")
        + f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{text(title)}</h1>\n{contents if len(named) > 1 else ''}"
        + "".join(map(_section, sections))
        + f"</main>\n{script}</body>\n</html>\n"
    )


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """A table of names and what is said of each."""
    lines = "".join(
        f"<tr><th scope='row'>{text(name)}</th><td class='fact'>{_inner(value)}</td></tr>"
        for name, value in rows
    )
    return f"<table>{lines}</table>\n"


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, of: str = ""
) -> str:
    """A table with a caption; the first cell of a row is its heading.

    Numbers stand to the right, rounded, with their whole value in the cell's ``data`` element. A
    table that is wider than the page is moved sideways, by keys as well.

    Args:
        of: the thing that the table is about, where the page has a table of this title for several:
            readers aloud tell them by it.
    """
    found = [list(row) for row in rows]
    numeric = [
        any(_is_number(row[i]) for row in found)
        and all(row[i] is None or _is_number(row[i]) for row in found)
        for i in range(len(columns))
    ]
    head = "".join(
        f"<th scope='col'{' class=number' if right else ''}>{text(name)}</th>"
        for name, right in zip(columns, numeric, strict=True)
    )
    lines = "".join(
        f"<tr><th scope='row'>{_inner(row[0])}</th>{''.join(map(_cell, row[1:], numeric[1:]))}</tr>"
        for row in found
    )
    label = f"{of}: {title}" if of else title
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(label)}">'
        f"<table><caption>{text(title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{lines}</tbody></table></div>\n"
    )


def _cell(value: object, numeric: bool) -> str:
    """A cell of a column that holds numbers, or that does not."""
    long = isinstance(value, str) and _is_long(value)
    kind = "number" if numeric or _is_number(value) else "long" if long else "text"
    return f"<td class='{kind}'>{_inner(value)}</td>"


def _is_long(value: str) -> bool:
    """True of sentences, and of words that no column of a telephone holds."""
    return len(value) > _LONG or any(len(word) > _LONG_WORD for word in value.split())


def _inner(value: object) -> str:
    if isinstance(value, Markup):
        return value.html
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_number(value):
        return f"<data value='{value!r}'>{rounded(value)}</data>"
    return text(str(value))


def rounded(value: Any) -> str:
    """A number for people: whole ones whole, others with two decimals or three figures."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if abs(value) >= 0.1 or not value else f"{value:.3g}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def paragraphs(sentences: Iterable[str]) -> str:
    """Sentences, a paragraph each."""
    return "".join(f"<p class='note'>{text(one)}</p>\n" for one in sentences)


def passed(yes: bool, good: str = "passed", bad: str = "not passed") -> Markup:
    """An outcome in a word, and in colour for who sees it."""
    return Markup(f"<span class='good'>{text(good)}</span>" if yes else _bad(bad))


def _bad(word: str) -> str:
    return f"<span class='bad'>{text(word)}</span>"


def details(summary: str, body: str) -> str:
    """HTML that is folded away until it is asked for."""
    return f"<details><summary>{text(summary)}</summary>\n{body}</details>\n"


def code(value: str) -> Markup:
    """A hash, a path or a command."""
    return Markup(f"<code>{text(value)}</code>")


def text(value: str) -> str:
    """Text as HTML, control characters made visible."""
    return escape(printable(value))


def _section(section: Section) -> str:
    name = f' id="{escape(section.name)}"' if section.name else ""
    kind = ' class="frame"' if section.of_a_frame else ""
    shown = "".join(
        f'<figure><img src="{escape(one.source)}" alt="{text(one.alt)}">'
        f"<figcaption><b>{text(one.title)}.</b> {text(one.caption)}</figcaption></figure>\n"
        for one in section.pictures
    )
    return f"<h2{name}{kind}>{text(section.title)}</h2>\n{section.body}{shown}"
