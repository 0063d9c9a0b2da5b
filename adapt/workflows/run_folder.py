"""A run's own folder beside its result: who may be in it, and when it goes."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ...runtime.atomic import output_errors
from ...runtime.bundle import Bundle, check_output, open_bundle
from ...runtime.errors import BundleError, OutputError, RunInterrupted, arg
from ..run.options import RunOptions
from ..run.workspace import SIGNS, Workspace

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Job:
    """Destination and circumstances of a run; see `RunOptions` for the rest."""

    out: Path
    overwrite: bool = False
    device: str = "auto"
    options: RunOptions = field(default_factory=lambda: RunOptions(fingerprint=""))

    @property
    def workdir(self) -> Path:
        """The run's own folder, beside ``out``: checkpoints, decoded frames, pseudo-labels."""
        return self.workspace.folder

    @property
    def workspace(self) -> Workspace:
        """The run's own folder, and the names of the files in it."""
        return Workspace.beside(self.out)


def check_job(job: Job) -> None:
    """Refuse what cannot be written; clear away a run that is not to be resumed, or cannot be."""
    if not (job.options.resume and published(job)):
        check_output(job.out, job.overwrite)
    _check_ours(job.workdir)
    if job.workdir.exists():
        with _alone_in(job.workdir):
            pass
    unfinished = job.workspace.checkpoint.exists()
    if unfinished and not (job.options.resume or job.overwrite):
        raise OutputError(
            f"{job.workdir}: holds a run that was not finished; continue it with "
            f"{arg('resume', True)}, or "
            f"discard it with {arg('overwrite', True)}."
        )
    if job.workdir.exists() and not (job.options.resume and job.workspace.has_begun):
        discard(job)


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
def run_folder(job: Job) -> Iterator[None]:
    """Make the run's folder; a new run that fails before its first step leaves none.

    One that is stopped leaves what it prepared, for a resume.
    """
    with output_errors(job.workdir):
        job.workdir.mkdir(exist_ok=True)
    with _alone_in(job.workdir):
        resumed = job.workspace.has_begun
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, RunInterrupted) and job.workspace.has_begun
            began = job.workspace.has_steps
            if job.workdir.exists() and not (stopped or began or resumed):
                discard(job)
            raise


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


def discard(job: Job) -> None:
    """Remove the run's folder, its name in one step: it is never there in part.

    What a kill leaves under the other name, the next `BundleWriter` of ``job.out`` removes.
    """
    rubbish = job.out.with_name(f".{job.out.name}.tmp-{secrets.token_hex(4)}")
    with output_errors(job.workdir):
        job.workdir.rename(rubbish)
    shutil.rmtree(rubbish, ignore_errors=True)


def published(job: Job, allow_networks: Collection[str] = ()) -> Bundle | None:
    """The run's own result, if the run was killed after publishing it.

    ``allow_networks`` are the modules that its network was built with, see `open_bundle`.
    """
    marker = job.workspace.published
    if not (marker.exists() and job.out.exists()):
        return None
    try:
        bundle = open_bundle(job.out, allow_networks=allow_networks)
    except BundleError:
        return None
    weights = bundle.artefact(name=WEIGHTS)
    with output_errors(marker):
        ours = weights is not None and weights.sha256 == marker.read_text(encoding="ascii")
    return bundle if ours else None
