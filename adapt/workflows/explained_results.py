"""Explanations of a comparison's results, on frames of the user's choice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runtime.atomic import output_errors
from ...runtime.bundle import open_bundle
from ...runtime.errors import RoadshiftError, RunInterrupted, Sentence, marked
from ...runtime.reporting.html import Picture, Section, paragraphs
from ...runtime.reporting.pictures import embedded_picture
from ..run.options import RunOptions
from .compare import Comparison
from .explanation import PAGE, RECORD, explain

EXPLAINED = "explained"  # folder in the output: an explanation for each variant
_MOST_EMBEDDED = 2_000_000  # characters of pictures in a report; its page has 5 MB at most


def explain_results(
    comparison: Comparison, frames: Sequence[str], options: RunOptions
) -> Mapping[str, str]:
    """Explain each variant's first seed beside the source model; made anew where one is there.

    A result that cannot be explained is said and left out.

    Args:
        frames: folders, images, videos, bags.
        options: of the comparison.

    Returns:
        the page of each variant by its title, from the folder of the comparison.

    Raises:
        OutputError: the folder cannot be made.
        RunInterrupted: a stop was requested; the runs stay.
    """
    pages, events = {}, options.events
    with output_errors(options.out):
        (options.out / EXPLAINED).mkdir(exist_ok=True)
    for variant, runs in comparison.results.items():
        if runs[0].error is not None:
            continue
        name = Path(runs[0].bundle).name
        try:
            explain(
                open_bundle(runs[0].bundle, allow_networks=comparison.source.allow_networks),
                frames,
                out=options.out / EXPLAINED / name,
                source=comparison.source,
                device=options.device,
                overwrite=True,
                on_note=events.note,
                on_progress=events.report_phase,
                stop_requested=events.stop_requested,
            )
        except RunInterrupted as error:
            raise RunInterrupted(
                f"Stopped while {variant.title} was explained; the runs are done, and the same "
                "command goes on from there."
            ) from error
        except RoadshiftError as error:
            events.note(Sentence(f"{variant.title} is not explained: {marked(error)}"))
        else:
            pages[variant.title] = f"{EXPLAINED}/{name}/{PAGE}"
    return pages


def explained_sections(out: Path, pages: Mapping[str, str]) -> list[Section]:
    """The explanations as sections of a report: a frame of each variant after another, as fits.

    Args:
        out: folder of the comparison.
        pages: of `explain_results`.

    Raises:
        FrameError: a picture cannot be read.
    """
    records = {title: _record(out / page) for title, page in pages.items()}
    pictures: dict[str, list[Picture]] = {title: [] for title in records}
    left, most = _MOST_EMBEDDED, max((len(one["frames"]) for one in records.values()), default=0)
    for number in range(most):
        for title, record in records.items():
            for frame in record["frames"][number : number + 1]:
                found = list(_pictures((out / pages[title]).parent, frame))
                left -= sum(len(one.source) for one in found)
                if left >= 0:
                    pictures[title] += found
    return [
        Section(
            f"{title}, explained",
            paragraphs([f"Beside the source model; every frame and figure is in {pages[title]}."]),
            pictures=shown,
            name=f"explained-{number}",
        )
        for number, (title, shown) in enumerate(pictures.items(), 1)
    ]


def _record(page: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(page.with_name(RECORD).read_text("utf-8"))
    return record


def _pictures(folder: Path, frame: Mapping[str, Any]) -> list[Picture]:
    return [
        embedded_picture(folder / file, f"{frame['name']}: {key}", caption, caption)
        for key, file in frame["figures"].items()
        for caption in (frame["captions"][key],)
    ]
