"""From a bundle and frames to a bundle: adapting a model, and training a source model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..runtime.bundle import (
    Bundle,
    BundleWriter,
    InputSpec,
    Measurement,
    NetworkSpec,
    Provenance,
    library_versions,
)
from ..runtime.errors import ConfigError, OutputError
from ..runtime.frames import labelled_pairs
from ..runtime.labels import LabelSpace
from .black_box import Student, open_black_box, resolve_student
from .checkpoint import write_atomically
from .config import RunConfig
from .context import Context
from .dataset import CropSampler, FrameSet, labelled_frames, set_aside, target_frames
from .importing import load_weights_file, save_weights
from .inputs import Normalise
from .judging.judge import judge_run
from .judging.views import Model
from .losses.kernels.choice import choose_kernel
from .methods import METHODS, build_stages
from .models import device_name, load_network, pick_device
from .networks import SegmentationNetwork, build_network
from .run_folder import PUBLISHED, WEIGHTS, Job, check_job, discard, published, run_folder
from .tone import align_tone
from .trainer import HISTORY, RunSummary, Trainer, to_memory_format


def adapt_bundle(
    source: Bundle,
    frames: Sequence[str | Path],
    config: RunConfig,
    job: Job,
    *,
    max_frames: int | None = None,
    gated: bool = False,
) -> Bundle:
    """Adapt a source model to unlabelled frames and write the result to ``job.out``.

    No label is read, whatever lies beside the frames. With ``gated`` the last frames are set aside
    (see `set_aside`), the result is judged on them against ``source``, and its manifest holds the
    verdict; a result that is not promoted is written all the same.

    Args:
        source: the source model.
        frames: folders, images and videos.
        config: method and settings, see `resolve_config`.
        job: where the result goes. A run that stopped is continued with ``options.resume``.
        max_frames: use at most so many, evenly spaced.
        gated: judge the result.

    Raises:
        RoadshiftError: any of its subclasses; nothing half-written is left at ``job.out``.
    """
    if METHODS[config.method].black_box:
        raise ConfigError(
            f"{config.method} learns from a black box's answers; give it a black box and a student."
        )
    if gated and job.out.resolve() == source.path.resolve():
        raise OutputError(
            f"{job.out}: is the incumbent itself, which stays until its successor is judged; give "
            "another --out, or --gate off."
        )
    check_job(job)
    device = _device(job, config)
    network = load_network(source, device)
    width, height = config.training.frame_size or _input_size(source.manifest.input)
    with run_folder(job):
        target = target_frames(
            frames, width, height, job.workdir, limit=max_frames, note=job.options.note
        )
        held = None
        if gated:
            target, held = set_aside(target, job.options.note)
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
            held=held,
            incumbent=source if gated else None,
        )


def adapt_black_box(
    source: str,
    frames: Sequence[str | Path],
    config: RunConfig,
    job: Job,
    student: Student,
    *,
    max_frames: int | None = None,
) -> Bundle:
    """Teach a student from what a black box says about unlabelled frames, into ``job.out``.

    Args:
        source: the black box, see `open_black_box`.
        frames: folders, images and videos.
        config: of a method that starts from a black box.
        job: where the result goes. A run that stopped is continued with ``options.resume``.
        student: the network that learns, and what the black box does not say of itself.
        max_frames: use at most so many, evenly spaced.

    Raises:
        RoadshiftError: any of its subclasses; nothing half-written is left at ``job.out``.
    """
    if not METHODS[config.method].black_box:
        raise ConfigError(f"{config.method} needs the source model itself, not a black box.")
    if config.tone != "none":
        raise ConfigError(
            f"tone={config.tone}: a black box shows no batch-norm statistics to align the frames "
            "with; leave it at none."
        )
    check_job(job)
    device = _device(job, config)
    black_box = open_black_box(source)
    network_spec, space, input_spec = resolve_student(student, black_box)
    config = config.model_copy(update={"method_config": {**config.method_config, "source": source}})
    network = _new_network(network_spec, space, config.seed, student.initial, job.options.note).to(
        device
    )
    width, height = config.training.frame_size or _input_size(input_spec)
    with run_folder(job):
        target = target_frames(
            frames, width, height, job.workdir, limit=max_frames, note=job.options.note
        )
        return _run(
            network,
            target,
            [Path(source) for source in frames] + ([student.initial] if student.initial else []),
            config,
            job,
            device,
            network_spec,
            space,
            input_spec,
            Provenance(parent=black_box.identity, method=config.method),
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
    check_job(job)
    device = _device(job, config)
    width, height = config.training.frame_size or _input_size(input_spec)
    frames = labelled_frames(labelled_pairs(images, labels), space, width, height)
    network = _new_network(network_spec, space, config.seed, initial, job.options.note)
    with run_folder(job):
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


def _new_network(
    spec: NetworkSpec,
    space: LabelSpace,
    seed: int,
    initial: Path | None,
    note: Callable[[str], None],
) -> SegmentationNetwork:
    """With random weights, or those of the file ``initial``."""
    torch.manual_seed(seed)
    network = build_network(spec.name, space.num_classes, **spec.arguments)
    if initial is not None:
        load_weights_file(network, initial, label_space=space.name, note=note)
    return network


def _device(job: Job, config: RunConfig) -> torch.device:
    """The run's device; losses that cannot be computed there are refused before any work."""
    device = pick_device(job.device)
    if config.losses != "auto":
        choose_kernel(config.losses, device)
    return device


def _input_size(spec: InputSpec) -> tuple[int, int]:
    return spec.width, spec.height


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
    *,
    held: FrameSet | None = None,
    incumbent: Bundle | None = None,
) -> Bundle:
    """Run the method's stages, then write the bundle and remove the run's folder.

    Where there is an ``incumbent``, the result is judged against it on the frames ``held``.
    """
    sampler = CropSampler(frames, config.training, config.augment, config.seed)
    context = Context(
        frames=frames,
        normalise=Normalise(input_spec).to(device),
        device=device,
        workdir=job.workdir,
        config=config,
        crop_size=(sampler.height, sampler.width),
        losses=choose_kernel(config.losses, device, job.options.note),
        held=held,
        classes=space.classes,
        stop_requested=job.options.stop_requested,
        note=job.options.note,
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
    options = replace(job.options, fingerprint=fingerprint)
    summary = Trainer(network, build_stages(config), context, options).run()
    provenance = provenance.model_copy(
        update={
            "configuration": {**config.model_dump(mode="json"), "outcome": asdict(summary)},
            "seed": config.seed,
            "frames": len(frames),
            "versions": library_versions(),
            "device": device_name(device),
        }
    )
    bundle = published(job) if job.options.resume else None
    if bundle is None:
        verdict = None
        if incumbent is not None:
            verdict = judge_run(incumbent, Model(network, input_spec), context)
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
                verdict=verdict,
            )
    discard(job)
    return bundle


def _measurements(summary: RunSummary, device: str) -> list[Measurement]:
    how = f"the run itself, on {device}"
    watch = summary.watch
    return [
        Measurement(name="run_seconds", value=round(summary.seconds, 3), unit="s", how=how),
        Measurement(
            name="run_peak_memory", value=round(summary.peak_memory_mib, 1), unit="MiB", how=how
        ),
        *([] if watch is None else [_watch_measurement(watch)]),
    ]


def _watch_measurement(watch: Mapping[str, Any]) -> Measurement:
    how = f"part of the run: {len(watch['looks'])} looks at {watch['frames']} frames set aside"
    return Measurement(name="watch_seconds", value=watch["seconds"], unit="s", how=how)
