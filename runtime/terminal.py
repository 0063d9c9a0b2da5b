"""What commands print: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from .printable import one_line
from .streams import results
from .words import counted, progressed

if TYPE_CHECKING:
    from .verdict import Verdict

_stderr = Console(stderr=True, highlight=False)  # one, so that notes appear above a bar


def console(width: int = 120) -> Console:
    """The terminal behind stdout, as wide as it is; ``width`` columns where that is unknown."""
    return Console(width=None if sys.stdout.isatty() else width, highlight=False)


def note(text: str) -> None:
    """A line on stderr, above the progress bar where there is one, as far as it can be shown."""
    with suppress(OSError, ValueError):  # a closed pipe, a full disk, a closed file
        _stderr.print(Text(one_line(text), "dim"), soft_wrap=True)


def say(*lines: str) -> None:
    """Lines on stdout, each as long as it is; what would break or colour them is shown escaped."""
    for line in lines:
        console().print(Text(one_line(line)), soft_wrap=True)


def print_json(document: Any) -> None:
    """One JSON document, and nothing else, on stdout."""
    out = results()
    out.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    out.flush()


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


def evaluation_table(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Per-class IoU and mIoU, percent, one column a record of the `eval` shape."""
    first = next(iter(records.values()))
    rows: list[list[object]] = [
        [name, *(record["iou"][name] for record in records.values())] for name in first["iou"]
    ]
    rows.append(["mIoU", *(record["miou"] for record in records.values())])
    rows.append(["pixel accuracy", *(record["pixel_accuracy"] for record in records.values())])
    for bound, index in (("95 % interval, low", 0), ("95 % interval, high", 1)):
        rows.append([bound, *(record["ci95"][index] for record in records.values())])
    rows.append(["frames", *(record["frames"] for record in records.values())])
    table("IoU in percent", ["class", *records], rows)
    for label_map in (record["label_map"] for record in records.values() if "label_map" in record):
        wrong = ", ".join(label_map["unmapped"]) or "none"
        say(
            f"Through the label map {label_map['name']}, from {label_map['from']} to "
            f"{label_map['to']}; unmapped classes, always wrong: {wrong}."
        )


def run_line(summary: Mapping[str, Any]) -> str:
    """The summary of `run` as a sentence or two."""
    ended = {
        "end": "",
        "signal": " Stopped by a signal.",
        "duration": " Stopped at --duration.",
        "max_frames": " Stopped at --max-frames.",
        "lost": " The source was lost.",
    }[summary["ended_by"]]
    reconnects = summary["reconnects"]
    latency = summary["latency_ms"]
    return (
        f"{counted(summary['frames'], 'frame')} in {summary['seconds']:.1f} s "
        f"({summary['fps']:.1f} a second), {summary['frames_read']} read, "
        f"{summary['dropped']} dropped, {summary['frames_skipped']} skipped"
        f"{f', {reconnects} times connected again' if reconnects else ''}; "
        f"from frame to labels p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms; "
        f"{'nothing written' if summary['out'] is None else 'to ' + summary['out']}.{ended}"
    )


def comparison_cells(row: Mapping[str, Any]) -> dict[str, object]:
    """One row of `compare` as cells by heading: mean ± deviation where there are several seeds."""
    variant = row["variant"]
    ours = variant in (None, "roadshift")

    def spread(key: str) -> object:
        value, deviation = row[key], row.get(f"{key}_std")
        return value if None in (value, deviation) else f"{value:.2f} ± {deviation:.2f}"

    lost = "failed" if "error" in row and row["miou"] is None else row["classes_lost"] or "none"
    return {
        "method": row["method"] if ours else f"{row['method']}:{variant}",
        "mIoU %": spread("miou"),
        "gain": spread("gain"),
        "seconds": row["seconds"],
        "steps/s": row["steps_per_s"],
        "peak MiB": row["peak_mib"],
        "classes lost": lost,
    }


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows of `compare`, then the sentence of each method that failed."""
    cells = [comparison_cells(row) for row in rows]
    table("Methods, side by side", list(cells[0]), [list(row.values()) for row in cells])
    for row, shown in zip(rows, cells, strict=True):
        if "error" in row:
            say(f"{shown['method']}: {row['error']}")


def verdict_table(verdict: Verdict, run_s: float = 0.0, watch_s: float = 0.0) -> None:
    """Every score that a verdict rests on, the verdict, and what it cost.

    Args:
        run_s: what the adaptation took, its looks at the frames set aside included; 0: none.
        watch_s: what those looks took.
    """
    rows = [
        [
            check.name,
            _figure(check.incumbent),
            _figure(check.candidate),
            None if check.low is None else f"{_figure(check.low)} to {_figure(check.high)}",
            _figure(check.threshold),
            "yes" if check.passed else "no",
            check.sentence,
        ]
        for check in verdict.checks
    ]
    if rows:
        columns = (
            "score",
            "incumbent",
            "candidate",
            "95 % interval",
            "threshold",
            "passed",
            "says",
        )
        table("\nJudged without labels", columns, rows)
    looks = f", with {watch_s:.1f} s of looks while adapting" if watch_s else ""
    share, adapting_s = "", run_s - watch_s
    if adapting_s > 0:
        percent = 100 * (verdict.seconds + watch_s) / adapting_s
        share = f": {percent:.1f} % of the {adapting_s:.0f} s that adapting took"
    say(f"{DECISIONS[verdict.decision]}: {verdict.sentence}")
    if verdict.frames:
        say(CONDITIONS)
    say(f"Judged on {counted(verdict.frames, 'frame')} in {verdict.seconds:.1f} s{looks}{share}.")


CONDITIONS = (
    "The verdict holds for conditions like those of its frames alone: judge again for another "
    "light, weather or road."
)

DECISIONS = {
    "promote": "Promote the candidate",
    "keep": "Keep the incumbent",
    "ask": "Ask a person",
}


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
