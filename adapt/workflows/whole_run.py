"""One run, from frames to a bundle: tone, the method's stages, the verdict, the writing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ...runtime.bundle import (
    Bundle,
    BundleWriter,
    InputSpec,
    NetworkSpec,
    Provenance,
    library_versions,
)
from ...runtime.labels import LabelSpace
from ...runtime.verdict import Verdict
from ..black_boxes.base import BlackBox
from ..data.context import Context
from ..data.dataset import CropSampler
from ..data.frame_set import FrameSet
from ..data.input_hashes import hash_of
from ..judging.judge import judge_run
from ..losses.backends.choice import choose_kernel
from ..methods import build_stages, hashed_settings
from ..methods.base import Stage
from ..models.importing import save_weights
from ..models.inputs import Normalise
from ..models.loading import device_name
from ..networks import SegmentationNetwork
from ..run.checkpoint import write_atomically
from ..run.config import RunConfig
from ..run.core_sharing import sharing_cores
from ..run.options import RunOptions, RunSummary
from ..run.size_limits import check_batch_size
from ..run.work import Work
from ..run.workspace import HISTORY
from ..scoring.views import ScoredModel
from ..training.compiling import to_memory_format
from ..training.optimisation import load_optimizers
from ..training.resume import kept_tone, spent_before
from ..training.time_allocation import TONE
from ..training.tone_alignment import align_tone
from ..training.trainer import Trainer
from .outcome import check_finite, measurements
from .run_folder import WEIGHTS, discard, published


@dataclass(frozen=True)
class Subject:
    """The model that a run changes, and what its bundle will say of it.

    Attributes:
        network: becomes the result, in place.
        spec, space, input: of the bundle.
        provenance: parent, method and fingerprint; the rest is known at the end.
    """

    network: SegmentationNetwork
    spec: NetworkSpec
    space: LabelSpace
    input: InputSpec
    provenance: Provenance


@sharing_cores()
def carry_out(
    subject: Subject,
    frames: FrameSet,
    sources: Sequence[Path],
    config: RunConfig,
    options: RunOptions,
    device: torch.device,
    work: Work,
    *,
    align: bool = False,
    held: FrameSet | None = None,
    incumbent: Bundle | None = None,
    older: Sequence[str | Path] = (),
    black_box: BlackBox | None = None,
) -> Bundle:
    """Align the tone, run the method's stages, judge, write the bundle, remove the run's folder.

    Args:
        frames: to learn from.
        sources: the files that they and initial weights come from; a resumed run has the same.
        align: whether the tone is aligned, where the settings ask for it.
        held: set aside to judge the result on, against ``incumbent``.
        older: see `adapt_bundle`.
        black_box: learned from, where there is one.

    Raises:
        TrainingError: the run in the folder is another one, or nothing could be learned.
        RoadshiftError: any other of its subclasses.
    """
    plan = _plan(subject, frames, sources, config)
    subject = _prepare(plan, subject, frames, config, options, device, work, align=align)
    context = Context(
        frames=frames,
        normalise=Normalise(subject.input).to(device),
        device=device,
        workdir=options.workspace.folder,
        config=config,
        crop_size=plan.crop_size,
        losses=choose_kernel(config.loss_backend, device, work.events.note),
        held=held,
        classes=subject.space.classes,
        black_box=black_box,
        fingerprint=plan.fingerprint,
        work=work,
    )
    summary = Trainer(subject.network, plan.stages, context, options).run()  # trains, and selects
    check_finite(subject.network)
    bundle = published(options, subject.spec.modules) if options.resume else None
    if bundle is None:
        verdict = _judge(subject, context, incumbent, older)
        bundle = _publish(subject, context, options, summary, verdict)
    discard(options)
    return bundle


@dataclass(frozen=True)
class _RunPlan:
    """A run's stages, not yet begun, the (height, width) of its crops, and its hash."""

    stages: list[Stage]
    crop_size: tuple[int, int]
    fingerprint: str


def _plan(
    subject: Subject, frames: FrameSet, sources: Sequence[Path], config: RunConfig
) -> _RunPlan:
    sampler = CropSampler(frames, config.training, config.augment, config.seed)
    check_batch_size(config.training, len(frames), sampler.width, sampler.height)
    fingerprint = _fingerprint(subject, frames, sources, config)
    return _RunPlan(build_stages(config), (sampler.height, sampler.width), fingerprint)


def _prepare(
    plan: _RunPlan,
    subject: Subject,
    frames: FrameSet,
    config: RunConfig,
    options: RunOptions,
    device: torch.device,
    work: Work,
    *,
    align: bool,
) -> Subject:
    """The subject with its tone aligned and its weights laid out; the clock of the run before."""
    work.deadline.before_s = spent_before(options.workspace, plan.fingerprint)
    if plan.stages:
        load_optimizers()  # before anything has a share of the time
    if align and config.tone == "auto":
        aligned = _aligned(subject, frames, options, device, work, plan.fingerprint)
        subject = replace(subject, input=aligned)
    to_memory_format(subject.network, config.training)
    return subject


def _fingerprint(
    subject: Subject, frames: FrameSet, sources: Sequence[Path], config: RunConfig
) -> str:
    """Hash what decides the run, apart from the content of its files."""
    return hash_of(
        [
            subject.provenance.parent,
            [str(source.resolve()) for source in sources],
            list(frames.names),
            subject.spec.model_dump(mode="json"),
            subject.space.to_dict(),
            subject.input.model_dump(mode="json"),
            hashed_settings(config),
        ]
    )


def _aligned(
    subject: Subject,
    frames: FrameSet,
    options: RunOptions,
    device: torch.device,
    work: Work,
    fingerprint: str,
) -> InputSpec:
    """The input with the gamma of the frames, found when the run began."""

    def align() -> InputSpec:
        with work.deadline.part(TONE):
            return align_tone(subject.network, frames, subject.input, device, work)

    return kept_tone(options.workspace, fingerprint, subject.input, align, work.events.note)


def _judge(
    subject: Subject, context: Context, incumbent: Bundle | None, older: Sequence[str | Path]
) -> Verdict | None:
    """The verdict on the result, where there is an incumbent."""
    if incumbent is None:
        return None
    return judge_run(incumbent, ScoredModel(subject.network, subject.input), context, older)


def _publish(
    subject: Subject,
    context: Context,
    options: RunOptions,
    summary: RunSummary,
    verdict: Verdict | None,
) -> Bundle:
    """The bundle of the result, written."""
    config, device = context.config, device_name(context.device)
    weights, history = save_weights(subject.network), options.workspace.history
    with BundleWriter(options.out, overwrite=options.overwrite) as writer:
        writer.add_bytes(WEIGHTS, weights, kind="weights", precision="fp32")
        if history.exists():
            writer.add_bytes(HISTORY, history.read_bytes(), kind="history")
        digest = hashlib.sha256(weights).hexdigest()
        write_atomically(options.workspace.published, digest.encode("ascii"))
        return writer.commit(
            network=subject.spec,
            label_space=subject.space,
            input=subject.input,
            provenance=subject.provenance.model_copy(
                update={
                    "configuration": {**config.model_dump(mode="json"), "outcome": asdict(summary)},
                    "seed": config.seed,
                    "frames": len(context.frames),
                    "versions": library_versions(),
                    "device": device,
                }
            ),
            measured=measurements(summary, device),
            verdict=verdict,
        )
