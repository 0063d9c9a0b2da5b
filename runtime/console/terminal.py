"""The terminal: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from ..printable import one_line
from ..words import progressed
from .flags import with_flags
from .streams import results

_stderr = Console(stderr=True, highlight=False)  # one, so that notes appear above a bar


def console(width: int = 120) -> Console:
    """The terminal behind stdout, as wide as it is; ``width`` columns where that is unknown."""
    return Console(width=None if sys.stdout.isatty() else width, highlight=False)


def note(text: str) -> None:
    """A line on stderr, above the progress bar where there is one, as far as it can be shown."""
    with suppress(OSError, ValueError):  # a closed pipe, a full disk, a closed file
        _stderr.print(Text(one_line(with_flags(text)), "dim"), soft_wrap=True)


def say(*lines: str) -> None:
    """Lines on stdout, each as long as it is; what would break or colour them is shown escaped."""
    for line in lines:
        console().print(Text(one_line(line)), soft_wrap=True)


def print_json(document: Any) -> None:
    """One JSON document, and nothing else, on stdout."""
    out = results()
    out.write(json.dumps(_told(document), indent=2, allow_nan=False) + "\n")
    out.flush()


def _told(document: Any) -> Any:
    """A document in which each `Sentence` has the flags of its arguments."""
    if isinstance(document, Mapping):
        return {key: _told(value) for key, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [_told(value) for value in document]
    return with_flags(document) if isinstance(document, str) else document


def shows_bars() -> bool:
    """Tell whether stderr is a terminal, on which a bar can move."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def progress(title: str, unit: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """A progress bar on stderr; gives ``update(done, total, text)``.

    Where stderr is no terminal, one line every tenth of the work instead.
    """
    if not shows_bars():
        shown = -1

        def line(done: int, total: int | None, text: str) -> None:
            nonlocal shown
            tenth = 10 * done // total if total else done // 100
            if tenth != shown:
                shown = tenth
                note(f"{title}: {progressed(done, total or None, unit)} {text}".rstrip())

        yield line
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False, table_column=Column()),  # this one wraps
    )
    with Progress(*columns, console=_stderr, transient=True) as bar:
        task = bar.add_task(title, total=None, text="")

        def update(done: int, total: int | None, text: str) -> None:
            bar.update(task, completed=done, total=total, text=one_line(text))

        yield update


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], width: int = 120
) -> None:
    """A table on stdout; numbers to the right, ``None`` as a dash, lists with commas.

    Args:
        width: columns where stdout is no terminal.
    """
    heading = one_line(title)
    drawn = Table(
        title=Text(f"\n{heading}" if title.startswith("\n") else heading, "bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], (int, float, type(None))) for row in rows)
        drawn.add_column(Text(one_line(column)), justify="right" if numeric and rows else "left")
    for row in rows:
        drawn.add_row(*(Text(one_line(_cell(value))) for value in row))  # no markup: [x] stays [x]
    console(width).print(drawn)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
