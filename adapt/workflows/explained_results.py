"""Explanations of a comparison's results, on frames of the user's choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...runtime.atomic import output_errors
from ...runtime.bundle import open_bundle
from ...runtime.errors import RoadshiftError, RunInterrupted, Sentence, marked
from ..run.options import RunOptions
from .compare import Comparison
from .explanation import PAGE, explain

EXPLAINED = "explained"  # folder in the output: an explanation for each variant


def explain_results(
    comparison: Comparison, frames: Sequence[str], options: RunOptions
) -> Mapping[str, str]:
    """Explain each variant's first seed beside the source model; made anew where one is there.

    A result that cannot be explained is said and left out.

    Args:
        frames: folders, images, videos.
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
