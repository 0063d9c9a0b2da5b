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

from ..runtime.atomic import output_errors
from ..runtime.bundle import Bundle, check_output, open_bundle
from ..runtime.errors import BundleError, OutputError, RunInterrupted
from .frame_cache import CACHE_INDEX, CACHE_PIXELS
from .trainer import CHECKPOINT, HISTORY, RunOptions

WEIGHTS = "model.safetensors"
PUBLISHED = "published.sha256"  # of the weights, when a run is about to publish them
RECORD = "run.json"  # of the run's beginning, the first file of all

# A folder that holds one of these is a run's, also one of an earlier version.
_OURS = frozenset({RECORD, CHECKPOINT, PUBLISHED, CACHE_INDEX, CACHE_PIXELS})


@dataclass(frozen=True)
class Job:
    """Where a run's result goes and how it is carried out; see `RunOptions` for the rest."""

    out: Path
    overwrite: bool = False
    device: str = "auto"
    options: RunOptions = field(default_factory=lambda: RunOptions(fingerprint=""))

    @property
    def workdir(self) -> Path:
        """The run's own folder, beside ``out``: checkpoints, decoded frames, pseudo-labels."""
        return self.out.with_name(self.out.name + ".run")


def check_job(job: Job) -> None:
    """Refuse what cannot be written; clear away a run that is not to be resumed, or cannot be."""
    if not (job.options.resume and published(job)):
        check_output(job.out, job.overwrite)
    _check_ours(job.workdir)
    if job.workdir.exists():
        with _alone_in(job.workdir):
            pass
    unfinished = (job.workdir / CHECKPOINT).exists()
    if unfinished and not (job.options.resume or job.overwrite):
        raise OutputError(
            f"{job.workdir}: holds a run that was not finished; continue it with --resume, or "
            "discard it with --overwrite."
        )
    if job.workdir.exists() and not (job.options.resume and has_begun(job.workdir)):
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
    if not folder or (names and not names & _OURS):
        problem = "holds files that are no run's" if folder else "is no folder"
        raise OutputError(
            f"{workdir}: the run would work there, and it {problem}; move it away, or give another "
            "--out."
        )


@contextmanager
def run_folder(job: Job) -> Iterator[None]:
    """Make the run's folder; a new run that fails before its first step leaves none.

    One that is stopped leaves what it prepared, for a resume.
    """
    with output_errors(job.workdir):
        job.workdir.mkdir(exist_ok=True)
    with _alone_in(job.workdir):
        resumed = has_begun(job.workdir)
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, RunInterrupted) and has_begun(job.workdir)
            history = job.workdir / HISTORY
            began = history.exists() and history.stat().st_size > 0
            if job.workdir.exists() and not (stopped or began or resumed):
                discard(job)
            raise


def has_begun(workdir: Path) -> bool:
    """Tell whether the folder holds a run that a resume goes on with."""
    return any((workdir / name).exists() for name in (CHECKPOINT, RECORD))


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
            f"{folder}: another run is at work there; wait for it, or give another --out."
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
    marker = job.workdir / PUBLISHED
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
