"""Choosing settings without labels: a run of each candidate, and the best of them published.

Candidates lie in ``OUT.search`` until one is published; see `choice` for which.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...runtime.arguments import ProgressUpdate
from ...runtime.atomic import output_errors, remove_in_one_step
from ...runtime.bundle import Bundle, BundleWriter, check_output, open_bundle
from ...runtime.errors import (
    BundleError,
    FrameError,
    OutputError,
    RefusedError,
    TrainingError,
    arg,
)
from ...runtime.frames import open_frames
from ...runtime.verdict import Verdict
from ...runtime.words import counted
from ..data.frame_set import LEAST_TO_JUDGE
from ..data.input_hashes import hash_of
from ..judging.choice import Standing, standings, winner
from ..judging.judge import FOR_A_VERDICT
from ..methods import hashed_settings
from ..run.checksums import DamagedError, read_json_with_checksum, write_json_with_checksum
from ..run.events import Events
from ..run.options import RunOptions
from .adaptation import adapt_bundle, check_not_incumbent
from .run_folder import search_folder
from .run_record import record_of_adapting
from .search_grid import Candidate

RECORD = "search.json"  # in the folder: the search that it is of


def search_settings(
    source: Bundle,
    frames: Sequence[str | Path],
    candidates: Sequence[Candidate],
    options: RunOptions,
    *,
    max_frames: int | None = None,
    older: Sequence[str | Path] = (),
) -> Bundle:
    """Adapt with every candidate's settings and write the best result to ``options.out``.

    Each is judged against ``source`` on the frames that its run sets aside, the same for all. The
    result's configuration has under "search" what was found of every candidate, see
    `_search_record`. A time budget is shared alike; a run that fails is a candidate that lost.

    Args:
        source, frames, max_frames, older: see `adapt_bundle`.
        candidates: see `search_grid`.
        options: how each run is carried out; with ``resume`` runs that are finished are taken up.

    Raises:
        RefusedError: no candidate may win; nothing is written.
        RunInterrupted: a signal came; with ``resume`` the search goes on.
        RoadshiftError: of what concerns all candidates, see `adapt_bundle`.
    """
    began = time.monotonic() if options.began is None else options.began
    folder, note = search_folder(options.out), options.events.note
    check_not_incumbent(source, options.out)
    if not options.resume:
        check_output(options.out, options.overwrite)
    _check_enough(frames, max_frames)
    fingerprint = _fingerprint(source, frames, candidates, options, max_frames, older)
    done = _finished(options, source, fingerprint)
    if done is not None:
        note(f"{options.out}: this search has finished, nothing is left to do")
        _discard(folder)
        return done
    if options.resume:
        check_output(options.out, options.overwrite)
    _begin(folder, fingerprint, options)
    share_s = None
    if options.time_budget_s is not None:
        share_s = max(options.time_budget_s - (time.monotonic() - began), 0.01) / len(candidates)
        note(f"each of {counted(len(candidates), 'candidate')} has {share_s:.0f} s")
    bundles: list[Bundle | str] = []
    for i, candidate in enumerate(candidates):
        options.events.stop_if_requested()
        title = f"candidate {i + 1} of {len(candidates)}"
        note(f"{title}: {candidate.title}")
        run = replace(
            options,
            out=folder / f"candidate-{i + 1}",
            overwrite=True,  # the folder is the search's own
            time_budget_s=share_s,
            began=None,
            events=_titled(options.events, title),
        )
        bundles.append(_adapted(source, frames, candidate, run, max_frames, older))
    found = standings([_verdict(bundle) for bundle in bundles])
    for candidate, standing in zip(candidates, found, strict=True):
        note(_line(candidate, standing))
    best = winner(found)
    table = _search_record(candidates, found, bundles, best)
    chosen = None if best is None else bundles[best]
    if best is None or not isinstance(chosen, Bundle):
        refusal = RefusedError(
            f"{options.out}: is not written, for no candidate is promoted, the first of them "
            f"because: {found[0].why} Their bundles are in {folder}."
        )
        refusal.search = table
        raise refusal
    note(f"chosen: {candidates[best].title}")
    record = {"fingerprint": fingerprint, **table}
    bundle = _published(chosen, record, options)
    _discard(folder)
    return bundle


def _check_enough(frames: Sequence[str | Path], max_frames: int | None) -> None:
    """Refuse, before hours of runs, frames of which none would be set aside to choose on.

    Raises:
        FrameError: there are fewer than `LEAST_TO_JUDGE`, or a source does not exist.
    """
    length = open_frames([str(one) for one in frames], on_skip=lambda _: None).length
    count = None if length is None else min(length, max_frames or length)
    if count is not None and count < LEAST_TO_JUDGE:
        raise FrameError(
            f"{arg('search')}: {counted(count, 'frame')} {'is' if count == 1 else 'are'} too few "
            f"to set some aside and choose on them; give at least {LEAST_TO_JUDGE}, and "
            f"{FOR_A_VERDICT} for a verdict."
        )


def _fingerprint(
    source: Bundle,
    frames: Sequence[str | Path],
    candidates: Sequence[Candidate],
    options: RunOptions,
    max_frames: int | None,
    older: Sequence[str | Path],
) -> str:
    """Hash of what the search was asked for, by which a resumed one knows its own."""
    run = record_of_adapting(options, frames, max_frames, candidates[0].config, source.hash)
    settings = [hashed_settings(candidate.config) for candidate in candidates]
    return hash_of([run.fingerprint, settings, [str(Path(one).resolve()) for one in older]])


def _finished(options: RunOptions, source: Bundle, fingerprint: str) -> Bundle | None:
    """The result of this very search, where it is resumed and has finished already."""
    if not (options.resume and options.out.exists()):
        return None
    try:
        bundle = open_bundle(options.out, allow_networks=source.allow_networks)
    except BundleError:
        return None
    made = bundle.manifest.provenance.configuration.get("search")
    return bundle if isinstance(made, dict) and made.get("fingerprint") == fingerprint else None


def _begin(folder: Path, fingerprint: str, options: RunOptions) -> None:
    """Make the search's folder, or go on in the one of the same search.

    Raises:
        OutputError: it holds another program's files, or a search that is neither to be resumed nor
            to be discarded.
        TrainingError: the search in it is another one.
    """
    path = folder / RECORD
    with output_errors(folder):
        names = {one.name for one in folder.iterdir()} if folder.exists() else set()
    if names and RECORD not in names:
        raise OutputError(
            f"{folder}: the search would work there, and it holds files that are no search's; "
            f"move it away, or give another {arg('out')}."
        )
    if names and options.resume:
        try:
            began = read_json_with_checksum(path)
        except (DamagedError, OSError) as error:
            raise TrainingError(
                f"{path}: is damaged ({error}); start anew with {arg('overwrite', True)}."
            ) from error
        if began.get("search") != fingerprint:
            raise TrainingError(
                f"{folder}: this search was started with other frames, settings or source model; "
                f"repeat its command with {arg('resume', True)}, or start anew with "
                f"{arg('overwrite', True)}."
            )
        return
    if names and not options.overwrite:
        raise OutputError(
            f"{folder}: holds a search that was not finished; continue it with "
            f"{arg('resume', True)}, or discard it with {arg('overwrite', True)}."
        )
    _discard(folder)
    with output_errors(folder):
        folder.mkdir()
        write_json_with_checksum(path, {"search": fingerprint})


def _adapted(
    source: Bundle,
    frames: Sequence[str | Path],
    candidate: Candidate,
    options: RunOptions,
    max_frames: int | None,
    older: Sequence[str | Path],
) -> Bundle | str:
    """The candidate's bundle, or the sentence of a run whose settings do not learn."""
    gc.collect()  # the last run's network may hold itself in a cycle; this one needs its room
    torch.cuda.empty_cache()
    try:
        return adapt_bundle(
            source,
            frames,
            candidate.config,
            options,
            max_frames=max_frames,
            gated=True,
            older=older,
        )
    except TrainingError as error:
        return f"The run failed: {error}"
    except torch.OutOfMemoryError:
        return "The run failed: the GPU's memory is not enough."


def _titled(events: Events, title: str) -> Events:
    """The events of a candidate's run, whose progress says which it is."""

    def report(progress: ProgressUpdate) -> None:
        events.report(replace(progress, task=f"{title}, {progress.task}"))

    return replace(events, report=report)


def _verdict(bundle: Bundle | str) -> Verdict | str:
    if isinstance(bundle, str):
        return bundle
    verdict = bundle.manifest.verdict
    assert verdict is not None  # the run was gated
    return verdict


def _line(candidate: Candidate, standing: Standing) -> str:
    """A candidate's standing as a note."""
    scores = ", ".join(
        f"{name} {value:.3f}" for name, value in standing.scores.items() if value is not None
    )
    end = standing.why or f"mean rank {standing.rank:.2f}"
    said = [standing.decision or "failed", scores, end]
    return f"{candidate.title}: {', '.join(filter(None, said))}"


def _search_record(
    candidates: Sequence[Candidate],
    found: Sequence[Standing],
    bundles: Sequence[Bundle | str],
    best: int | None,
) -> dict[str, Any]:
    """The table of a search: "chosen", the winner's values or None, and "candidates", each one's.

    Of each: "settings" by dotted key, "decision" of its gate (None: the run failed), "scores",
    "rank" (None: it may not win), "why" it may not, "steps" and "seconds" of its run.
    """
    rows = [
        {"settings": candidate.values, **standing.record(), **_outcome(bundle)}
        for candidate, standing, bundle in zip(candidates, found, bundles, strict=True)
    ]
    return {"chosen": None if best is None else candidates[best].values, "candidates": rows}


def _outcome(bundle: Bundle | str) -> dict[str, Any]:
    outcome: Any = {}
    if isinstance(bundle, Bundle):
        outcome = bundle.manifest.provenance.configuration["outcome"]
    return {name: outcome.get(name) for name in ("steps", "seconds")}


def _published(chosen: Bundle, record: Mapping[str, Any], options: RunOptions) -> Bundle:
    """The winner at ``options.out``, with the search's record in its configuration."""
    origin = chosen.manifest.provenance
    configuration = {**origin.configuration, "search": dict(record)}
    with BundleWriter(options.out, overwrite=options.overwrite, base=chosen) as writer:
        return writer.commit(provenance=origin.model_copy(update={"configuration": configuration}))


def _discard(folder: Path) -> None:
    """Remove the search's folder, if there is one."""
    if folder.exists():
        remove_in_one_step(folder, folder)
