"""From a bundle and frames to a bundle: adapting a model, and training a source model."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from ..runtime.atomic import output_errors
from ..runtime.bundle import (
    Bundle,
    BundleWriter,
    InputSpec,
    Measurement,
    NetworkSpec,
    Provenance,
    check_output,
    library_versions,
    open_bundle,
)
from ..runtime.errors import BundleError, OutputError, RunInterrupted
from ..runtime.frames import labelled_pairs
from ..runtime.labels import LabelSpace
from .checkpoint import write_atomically
from .config import RunConfig
from .context import Context
from .dataset import CropSampler, FrameSet, labelled_frames, target_frames
from .importing import load_weights_file, save_weights
from .inputs import Normalise
from .methods import build_stages
from .models import device_name, load_network, pick_device
from .networks import SegmentationNetwork, build_network
from .tone import align_tone
from .trainer import CHECKPOINT, HISTORY, RunOptions, RunSummary, Trainer, to_memory_format

if sys.platform != "win32":
    import fcntl

WEIGHTS = "model.safetensors"
PUBLISHED = "published.sha256"  # of the weights, when a run is about to publish them


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


def adapt_bundle(
    source: Bundle,
    frames: Sequence[str | Path],
    config: RunConfig,
    job: Job,
    *,
    max_frames: int | None = None,
) -> Bundle:
    """Adapt a source model to unlabelled frames and write the result to ``job.out``.

    No label is read, whatever lies beside the frames.

    Args:
        source: the source model.
        frames: folders, images and videos.
        config: method and settings, see `resolve_config`.
        job: where the result goes. A run that stopped is continued with ``options.resume``.
        max_frames: use at most so many, evenly spaced.

    Raises:
        RoadshiftError: any of its subclasses; nothing half-written is left at ``job.out``.
    """
    _check_job(job)
    device = pick_device(job.device)
    network = load_network(source, device)
    width, height = config.training.frame_size or _input_size(source.manifest.input)
    with _run_folder(job):
        target = target_frames(
            frames, width, height, job.workdir, limit=max_frames, note=job.options.note
        )
        spec = source.manifest.input
        if config.tone == "auto":
            spec = align_tone(network, target, spec, device, job.options.note)
        return _run(
            network,
            target,
            [Path(source) for source in frames],
            config,
            job,
            device,
            source.manifest.network,
            source.label_space,
            spec,
            Provenance(parent=source.hash, method=config.method),
        )


def train_bundle(
    images: Path,
    labels: Path,
    space: LabelSpace,
    network_spec: NetworkSpec,
    input_spec: InputSpec,
    config: RunConfig,
    job: Job,
    *,
    initial: Path | None = None,
) -> Bundle:
    """Train a source model on labelled images and write it to ``job.out``.

    Args:
        images, labels: folders; Cityscapes, ACDC and plain layouts are found by themselves.
        initial: weights to start from (a checkpoint of the same network); random otherwise.

    Raises:
        RoadshiftError: any of its subclasses; nothing half-written is left at ``job.out``.
    """
    _check_job(job)
    device = pick_device(job.device)
    width, height = config.training.frame_size or _input_size(input_spec)
    frames = labelled_frames(labelled_pairs(images, labels), space, width, height)
    torch.manual_seed(config.seed)
    network = build_network(network_spec.name, space.num_classes, **network_spec.arguments)
    if initial is not None:
        load_weights_file(network, initial, label_space=space.name)
    with _run_folder(job):
        return _run(
            network.to(device),
            frames,
            [path for path in (images, labels, initial) if path is not None],
            config,
            job,
            device,
            network_spec,
            space,
            input_spec,
            Provenance(method="train"),
        )


def _input_size(spec: InputSpec) -> tuple[int, int]:
    return spec.width, spec.height


def _check_job(job: Job) -> None:
    """Refuse what cannot be written; clear away a run that is not to be resumed, or cannot be."""
    if not (job.options.resume and _published(job)):
        check_output(job.out, job.overwrite)
    if job.workdir.exists():
        with _alone_in(job.workdir):
            pass
    unfinished = (job.workdir / CHECKPOINT).exists()
    if unfinished and not (job.options.resume or job.overwrite):
        raise OutputError(
            f"{job.workdir}: holds a run that was not finished; continue it with --resume, or "
            "discard it with --overwrite."
        )
    if job.workdir.exists() and not (unfinished and job.options.resume):
        _discard(job)


@contextmanager
def _run_folder(job: Job) -> Iterator[None]:
    """Make the run's folder; a run that fails before its first step leaves none."""
    with output_errors(job.workdir):
        job.workdir.mkdir(exist_ok=True)
    with _alone_in(job.workdir):
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, RunInterrupted) and (job.workdir / CHECKPOINT).exists()
            history = job.workdir / HISTORY
            began = history.exists() and history.stat().st_size > 0
            if job.workdir.exists() and not (stopped or began):
                _discard(job)
            raise


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder`` while a run works in it; the kernel lets go of it however the process ends.

    Raises:
        OutputError: another process holds it.
    """
    if sys.platform == "win32":
        yield
        return
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


def _discard(job: Job) -> None:
    """Remove the run's folder, its name in one step: it is never there in part.

    What a kill leaves under the other name, the next `BundleWriter` of ``job.out`` removes.
    """
    rubbish = job.out.with_name(f".{job.out.name}.tmp-{secrets.token_hex(4)}")
    with output_errors(job.workdir):
        job.workdir.rename(rubbish)
    shutil.rmtree(rubbish, ignore_errors=True)


def _published(job: Job) -> Bundle | None:
    """The run's own result, if the run was killed after publishing it."""
    marker = job.workdir / PUBLISHED
    if not (marker.exists() and job.out.exists()):
        return None
    try:
        bundle = open_bundle(job.out)
    except BundleError:
        return None
    weights = bundle.artefact(name=WEIGHTS)
    with output_errors(marker):
        ours = weights is not None and weights.sha256 == marker.read_text(encoding="ascii")
    return bundle if ours else None


def _run(
    network: SegmentationNetwork,
    frames: FrameSet,
    sources: Sequence[Path],
    config: RunConfig,
    job: Job,
    device: torch.device,
    network_spec: NetworkSpec,
    space: LabelSpace,
    input_spec: InputSpec,
    provenance: Provenance,
) -> Bundle:
    """Run the method's stages, then write the bundle and remove the run's folder."""
    sampler = CropSampler(frames, config.training, config.augment, config.seed)
    context = Context(
        frames=frames,
        normalise=Normalise(input_spec).to(device),
        device=device,
        workdir=job.workdir,
        config=config,
        crop_size=(sampler.height, sampler.width),
        stop_requested=job.options.stop_requested,
    )
    identity = [
        provenance.parent,
        [str(source.resolve()) for source in sources],
        list(frames.names),
        network_spec.model_dump(mode="json"),
        space.to_dict(),
        input_spec.model_dump(mode="json"),
        config.model_dump(mode="json"),
    ]
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    to_memory_format(network, config.training)
    trainer = Trainer(
        network, build_stages(config), context, replace(job.options, fingerprint=fingerprint)
    )
    summary = trainer.run()
    provenance = provenance.model_copy(
        update={
            "configuration": {**config.model_dump(mode="json"), "outcome": asdict(summary)},
            "seed": config.seed,
            "frames": len(frames),
            "versions": library_versions(),
            "device": device_name(device),
        }
    )
    bundle = _published(job) if job.options.resume else None
    if bundle is None:
        weights, history = save_weights(network), job.workdir / HISTORY
        with BundleWriter(job.out, overwrite=job.overwrite) as writer:
            writer.add_bytes(WEIGHTS, weights, kind="weights", precision="fp32")
            if history.exists():
                writer.add_bytes(HISTORY, history.read_bytes(), kind="history")
            digest = hashlib.sha256(weights).hexdigest()
            write_atomically(job.workdir / PUBLISHED, digest.encode("ascii"))
            bundle = writer.commit(
                network=network_spec,
                label_space=space,
                input=input_spec,
                provenance=provenance,
                measured=_measurements(summary, device_name(device)),
            )
    _discard(job)
    return bundle


def _measurements(summary: RunSummary, device: str) -> list[Measurement]:
    how = f"the run itself, on {device}"
    return [
        Measurement(name="run_seconds", value=round(summary.seconds, 3), unit="s", how=how),
        Measurement(
            name="run_peak_memory", value=round(summary.peak_memory_mib, 1), unit="MiB", how=how
        ),
    ]
