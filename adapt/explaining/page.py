"""The page of an explanation: HTML that asks nobody for anything, light and dark, printable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import PurePosixPath

from ...runtime.labels import LabelSpace
from ...runtime.printable import printable
from .frame_figures import Figure

_STYLE = """
:root { color-scheme: light dark; --text: #1c1c1c; --page: #fff; --soft: #5a5a5a; --line: #d5d5d5 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6e6; --page: #161616; --soft: #a8a8a8; --line: #3c3c3c } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 72rem; margin: 0 auto; padding: 1rem }
figure { margin: 1.5rem 0 }
img { max-width: 100%; height: auto; border: 1px solid var(--line) }
figcaption, .note { color: var(--soft) }
figcaption b { color: var(--text) }
table { border-collapse: collapse }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.classes span { display: inline-block; margin-right: 1rem; white-space: nowrap }
.classes i { display: inline-block; width: .9em; height: .9em; margin-right: .35em;
  border: 1px solid var(--soft); vertical-align: -.1em; print-color-adjust: exact }
a { color: inherit }
@media print {
  :root { --text: #000; --page: #fff; --soft: #333; --line: #999 }
  body { max-width: none; padding: 0 } nav { display: none }
  figure, tr { break-inside: avoid } h2, h3 { break-after: avoid } h2.frame { break-before: page } }
"""


@dataclass(frozen=True)
class Section:
    """A heading, tables' HTML or sentences' below it, and figures by their file.

    Attributes:
        figures: file of the picture, relative to the page, and what it shows.
        body: HTML before the figures.
    """

    title: str
    figures: Sequence[tuple[PurePosixPath, Figure]] = ()
    body: str = ""
    name: str = ""  # of the anchor that the page's contents lead to
    of_a_frame: bool = False


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole page."""
    contents = "".join(
        f'<li><a href="#{escape(s.name)}">{_text(s.title)}</a></li>' for s in sections if s.name
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n<nav><ul>{contents}</ul></nav>\n"
        + "".join(map(_section, sections))
        + "</body>\n</html>\n"
    )


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and what is said of each."""
    lines = "".join(f"<tr><th scope='row'>{_text(a)}</th><td>{_text(b)}</td></tr>" for a, b in rows)
    return f"<table>{lines}</table>\n"


def figures_table(first: str, columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> str:
    """A table of numbers with one decimal; ``first`` heads the rows' names."""
    head = "".join(f"<th class='number' scope='col'>{_text(name)}</th>" for name in columns)
    lines = [
        f"<tr><th scope='row'>{_text(name)}</th>"
        + "".join(f"<td class='number'>{value:.1f}</td>" for value in values)
        + "</tr>"
        for name, values in rows.items()
    ]
    return f"<table><tr><th scope='col'>{_text(first)}</th>{head}</tr>{''.join(lines)}</table>\n"


def classes_legend(classes: Iterable[int], space: LabelSpace) -> str:
    """Colours and names of classes."""
    shown = "".join(
        f"<span><i style='background:#{bytes(space.colours[c]).hex()}'></i>"
        f"{_text(space.classes[c])}</span>"
        for c in classes
    )
    return f"<p class='classes'>{shown}</p>\n"


def paragraphs(sentences: Iterable[str]) -> str:
    """Sentences, a paragraph each."""
    return "".join(f"<p class='note'>{_text(one)}</p>\n" for one in sentences)


def _section(section: Section) -> str:
    name = f' id="{escape(section.name)}"' if section.name else ""
    kind = ' class="frame"' if section.of_a_frame else ""
    shown = "".join(
        f'<figure><img src="{escape(str(file))}" alt="{_text(figure.alt)}">'
        f"<figcaption><b>{_text(figure.title)}.</b> {_text(figure.caption)}</figcaption></figure>\n"
        for file, figure in section.figures
    )
    return f"<h2{name}{kind}>{_text(section.title)}</h2>\n{section.body}{shown}"


def _text(text: str) -> str:
    return escape(printable(text))
