"""A run's own folder beside its result: who may be in it, and when it goes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...runtime.atomic import output_errors, remove_in_one_step
from ...runtime.bundle import Bundle, check_output, open_bundle
from ...runtime.errors import (
    BundleError,
    OutputError,
    RoadshiftError,
    RunInterrupted,
    Sentence,
    arg,
)
from ...runtime.file_names import beside
from ..run.options import RunOptions
from ..run.workspace import SIGNS

WEIGHTS = "model.safetensors"


def search_folder(out: Path) -> Path:
    """The folder in which a search works whose result will be ``out``."""
    return beside(out, "{}.search")


def check_place(options: RunOptions) -> None:
    """Refuse what cannot be written; clear away a run that is not to be resumed, or cannot be."""
    if not (options.resume and published(options)):
        check_output(options.out, options.overwrite)
    search = search_folder(options.out)
    if search.exists() and not options.overwrite:
        raise OutputError(
            f"{search}: holds a search that was not finished, whose result will be {options.out}; "
            f"repeat its command with {arg('resume', True)}, or give another {arg('out')}."
        )
    folder = options.workspace.folder
    _check_ours(folder)
    if folder.exists():
        with _alone_in(folder):
            pass
    unfinished = options.workspace.checkpoint.exists()
    if unfinished and not (options.resume or options.overwrite):
        raise OutputError(
            f"{folder}: holds a run that was not finished; continue it with "
            f"{arg('resume', True)}, or "
            f"discard it with {arg('overwrite', True)}."
        )
    if folder.exists() and not (options.resume and options.workspace.has_begun):
        discard(options)


def _check_ours(workdir: Path) -> None:
    """Refuse what somebody else put where the run would work, and remove at its end.

    Raises:
        OutputError: it is no folder, or holds files and none that a run begins with.
    """
    with output_errors(workdir):
        if not workdir.exists() and not workdir.is_symlink():
            return
        folder = workdir.is_dir() and not workdir.is_symlink()
        names = {path.name.removesuffix(".tmp") for path in workdir.iterdir()} if folder else set()
    if not folder or (names and not names & SIGNS):
        problem = "holds files that are no run's" if folder else "is no folder"
        raise OutputError(
            f"{workdir}: the run would work there, and it {problem}; move it away, or give another "
            f"{arg('out')}."
        )


@contextmanager
def run_folder(options: RunOptions, *, keep_answers: bool = False) -> Iterator[None]:
    """Make the run's folder; a new run that fails before its first step leaves none.

    One that is stopped leaves what it prepared, for a resume, and with ``keep_answers`` one that
    fails leaves what a black box has answered.
    """
    workspace = options.workspace
    with output_errors(workspace.folder):
        workspace.folder.mkdir(exist_ok=True)
    with _alone_in(workspace.folder):
        resumed = workspace.has_begun
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, RunInterrupted) and workspace.has_begun
            began = workspace.has_steps or (keep_answers and workspace.has_answers)
            if workspace.folder.exists() and not (stopped or began or resumed):
                discard(options)
            elif keep_answers and workspace.has_answers and isinstance(error, RoadshiftError):
                _tell_kept(options, error)
            raise


def _tell_kept(options: RunOptions, error: RoadshiftError) -> None:
    """Say that answers are kept, where the run did not end by being stopped."""
    if not isinstance(error, RunInterrupted):
        options.events.note(
            Sentence(
                f"{options.workspace.folder}: keeps what the black box has answered; the same "
                f"command with {arg('resume', True)} asks for the rest"
            )
        )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder`` while a run works in it; the kernel lets go of it however the process ends.

    Raises:
        OutputError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise OutputError(
            f"{folder}: another run is at work there; wait for it, or give another {arg('out')}."
        ) from error
    try:
        yield
    finally:
        os.close(handle)


def discard(options: RunOptions) -> None:
    """Remove the run's folder; what a kill leaves, `BundleWriter` of ``options.out`` removes."""
    remove_in_one_step(options.workspace.folder, options.out)


def published(options: RunOptions, allow_networks: Collection[str] = ()) -> Bundle | None:
    """The run's own result, if the run was killed after publishing it.

    ``allow_networks`` are the modules that its network was built with, see `open_bundle`.
    """
    marker = options.workspace.published
    if not (marker.exists() and options.out.exists()):
        return None
    try:
        bundle = open_bundle(options.out, allow_networks=allow_networks)
    except BundleError:
        return None
    weights = bundle.artefact(name=WEIGHTS)
    with output_errors(marker):
        ours = weights is not None and weights.sha256 == marker.read_text(encoding="ascii")
    return bundle if ours else None
