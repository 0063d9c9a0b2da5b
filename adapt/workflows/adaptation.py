"""From a bundle and frames to a bundle: adapting a model, and training a source model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ...runtime.bundle import (
    Bundle,
    InputSpec,
    NetworkSpec,
    Provenance,
)
from ...runtime.errors import ConfigError, FrameError, OutputError, RoadshiftError, arg, naming
from ...runtime.folders.label_pairs import labelled_pairs
from ...runtime.frames import open_frames
from ...runtime.labels import LabelSpace
from ...runtime.labels.label_id_checks import check_label_maps
from ...runtime.words import counted
from ..black_boxes import BlackBox, BoxWiring, Student, open_black_box, resolve_student, source_name
from ..data.blank_frames import check_not_blank
from ..data.dataset import target_frames
from ..data.frame_set import FrameSet, set_aside
from ..data.labelled import labelled_frames
from ..losses.backends.choice import choose_kernel
from ..methods import adapting_method, build_stages, find_method, hashed_settings
from ..methods.supervised import Supervised
from ..models.initial_weights import load_initial_weights
from ..models.loading import check_learning, load_network, new_network, pick_device
from ..networks import SegmentationNetwork
from ..run.config import RunConfig
from ..run.options import RunOptions
from ..run.size_limits import check_frame_size
from ..run.work import Work
from ..training.learned_parts import check_part
from ..training.optimisation import nothing_learns
from ..training.resume import frames_were_held
from ..training.time_allocation import DECODING
from .run_folder import check_place, run_folder
from .run_record import RunRecord, record_of_adapting
from .whole_run import Subject, carry_out


def adapt_bundle(
    source: Bundle,
    frames: Sequence[str | Path],
    config: RunConfig,
    options: RunOptions,
    *,
    max_frames: int | None = None,
    gated: bool = False,
    older: Sequence[str | Path] = (),
) -> Bundle:
    """Adapt a source model to unlabelled frames and write the result to ``options.out``.

    No label is read, whatever lies beside the frames. With ``gated`` the last frames are set aside
    (see `set_aside`), the result is judged on them against ``source``, and its manifest holds the
    verdict; a result that is not promoted is written all the same.

    Args:
        source: the source model.
        frames: folders, images and videos.
        config: method and settings, see `resolve_config`.
        options: where the result goes. A run that stopped is continued with ``resume``.
        max_frames: use at most so many, evenly spaced.
        gated: judge the result.
        older: frames of conditions that ``source`` serves, on which a gated run measures what was
            forgotten; nothing is learned from them.

    Raises:
        RoadshiftError: any of its subclasses; nothing half-written is left at ``options.out``.
    """
    if adapting_method(config.method).black_box:
        raise ConfigError(
            f"{config.method} learns from a black box's answers; give it a black box and a student."
        )
    if older and not gated:
        raise ConfigError(
            f"{arg('older')}: nothing is judged with {arg('gate', False)}; leave one of the "
            "two out."
        )
    if older:
        with naming(older=FrameError):  # what is not there is said before the run
            open_frames([str(path) for path in older])
    if gated:
        check_not_incumbent(source, options.out)
    work = Work.of(options)
    record = record_of_adapting(options, frames, max_frames, config, source.hash)
    done = record.finished(judged=gated, allow_networks=source.allow_networks)
    if done is not None:
        return done
    check_place(options)
    device = _device(options, config)
    network = load_network(source, device)
    _check_learning(network, source.manifest.network, source.manifest.input, config)
    width, height = _frame_size(config, source.manifest.input)
    with run_folder(options), record.under_way(device):
        target = _target_frames(frames, width, height, options, work, max_frames)
        held, kept_out = None, frames_were_held(options.workspace, gated)
        if kept_out:
            target, held = set_aside(target, options.events.note)
        if kept_out and not gated:
            options.events.note("they stay aside, as when the run began, and are not judged on")
        return carry_out(
            Subject(
                network,
                source.manifest.network,
                source.label_space,
                source.manifest.input,
                Provenance(
                    parent=source.hash, method=config.method, fingerprint=record.fingerprint
                ),
            ),
            target,
            [Path(source) for source in frames],
            config,
            options,
            device,
            work,
            align=True,
            held=held,
            incumbent=source if gated else None,
            older=older,
        )


def check_not_incumbent(source: Bundle, out: Path) -> None:
    """Refuse to write a result that is judged over the incumbent.

    Raises:
        OutputError: both are the same folder.
    """
    if out.resolve() == source.path.resolve():
        raise OutputError(
            f"{out}: is the incumbent itself, which stays until its successor is judged; "
            f"give another {arg('out')}, or {arg('gate', False)}."
        )


def adapt_black_box(
    source: str | Path | Callable[..., Any] | BlackBox,
    frames: Sequence[str | Path],
    config: RunConfig,
    options: RunOptions,
    student: Student,
    *,
    wiring: BoxWiring | None = None,
    max_frames: int | None = None,
) -> Bundle:
    """Teach a student from what a black box says about unlabelled frames, into ``options.out``.

    Args:
        source: the black box, see `open_black_box`; ``wiring`` is what it does not say of itself.
        frames: folders, images and videos.
        config: of a method that starts from a black box.
        options: where the result goes. A run that stopped is continued with ``resume``.
        student: the network that learns, and what the black box does not say of itself.
        max_frames: use at most so many, evenly spaced.

    Raises:
        RoadshiftError: any of its subclasses; nothing half-written is left at ``options.out``.
    """
    if not adapting_method(config.method).black_box:
        raise ConfigError(f"{config.method} needs the source model itself, not a black box.")
    if config.tone != "none":
        raise ConfigError(
            f"tone={config.tone}: a black box shows no batch-norm statistics to align the frames "
            "with; leave it at none."
        )
    work = Work.of(options)
    wiring = _within_budget(wiring or BoxWiring(), options.time_budget_s)
    black_box = open_black_box(source, wiring, student.space(), options.events.note)
    network_spec, space, input_spec = resolve_student(student, black_box)
    told = {"source": source_name(source), "wiring": wiring.settled()}
    config = config.model_copy(update={"method_config": {**config.method_config, **told}})
    made_of = [network_spec.model_dump(mode="json"), space.to_dict(), input_spec.model_dump()]
    initial = [student.initial] if student.initial else []
    record = record_of_adapting(
        options, frames, max_frames, config, black_box.identity, student=made_of, weights=initial
    )
    done = record.finished(allow_networks=network_spec.modules)
    if done is not None:
        return done
    check_place(options)
    device = _device(options, config)
    with _of_student():
        network = _new_network(
            network_spec, space, input_spec, config.seed, student.initial, options.events.note
        ).to(device)
        _check_learning(network, network_spec, input_spec, config)
    width, height = _frame_size(config, input_spec)
    with run_folder(options, keep_answers=black_box.looks), record.under_way(device):
        target = _target_frames(frames, width, height, options, work, max_frames)
        _check_answered(black_box, target.names, told["source"])
        return carry_out(
            Subject(
                network,
                network_spec,
                space,
                input_spec,
                Provenance(
                    parent=black_box.identity, method=config.method, fingerprint=record.fingerprint
                ),
            ),
            target,
            [Path(source) for source in frames] + initial,
            config,
            options,
            device,
            work,
            black_box=black_box,
        )


def _within_budget(wiring: BoxWiring, time_budget_s: float | None) -> BoxWiring:
    """Give a service that does not answer no more than a tenth of the run's time at once."""
    return wiring if time_budget_s is None else replace(wiring, budgeted_s=time_budget_s / 10)


@contextmanager
def _of_student() -> Iterator[None]:
    """Let an error about a network's ``output`` name the student's, not the black box's."""
    try:
        yield
    except RoadshiftError as error:
        its, students = arg("output")[:-1], arg("student_output")[:-1]
        if its not in error.marked:
            raise
        raise type(error)(error.marked.replace(its, students)) from error


def _check_answered(black_box: BlackBox, names: Sequence[str], source: object) -> None:
    """Refuse a black box that lacks answers, before it is asked for the first.

    Raises:
        FrameError: it has none to some frames.
    """
    missing = black_box.lacks(names)
    if missing:
        told = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise FrameError(
            f"{source}: has no answer to {len(missing)} of {counted(len(names), 'frame')} "
            f"({told}); every target frame needs one of its name."
        )


def train_bundle(
    images: Path,
    labels: Path,
    space: LabelSpace,
    network_spec: NetworkSpec,
    input_spec: InputSpec,
    config: RunConfig,
    options: RunOptions,
    *,
    initial: Path | Bundle | None = None,
) -> Bundle:
    """Train a model on labelled images and write it to ``options.out``.

    Args:
        images, labels: folders; Cityscapes, ACDC and plain layouts are found by themselves.
        initial: weights to start from, a checkpoint of the same network or of its backbone, see
            `load_initial_weights`; or a bundle to learn on from; random otherwise.

    Raises:
        RoadshiftError: any of its subclasses; nothing half-written is left at ``options.out``.
    """
    if config.method != Supervised.name:
        raise ConfigError(
            f"{config.method} learns without labels: use adapt (adapt_bundle), or train with "
            f"resolve_config({Supervised.name!r})."
        )
    work = Work.of(options)
    pairs = labelled_pairs(images, labels, note=options.events.note)
    weights = [initial] if isinstance(initial, Path) else []
    parent = initial.hash if isinstance(initial, Bundle) else None
    record = RunRecord(
        options,
        {
            "images and labels": [str(path.resolve()) for path in (images, labels)],
            "network": network_spec.model_dump(mode="json"),
            "label space": space.to_dict(),
            "input": input_spec.model_dump(mode="json"),
            "settings": hashed_settings(config),
            **({"bundle": parent} if parent else {}),
        },
        lambda: [*chain.from_iterable(pairs), *weights],
        kept=False,
    )
    done = record.finished(allow_networks=network_spec.modules)
    if done is not None:
        return done
    check_place(options)
    device = _device(options, config)
    width, height = _frame_size(config, input_spec)
    frames = labelled_frames(pairs, space, width, height)
    network = _new_network(
        network_spec, space, input_spec, config.seed, initial, options.events.note
    )
    _check_learning(network, network_spec, input_spec, config)
    check_label_maps([path for _, path in pairs], space, options.events.note)
    with run_folder(options), record.under_way(device):
        return carry_out(
            Subject(
                network.to(device),
                network_spec,
                space,
                input_spec,
                Provenance(parent=parent, method="train", fingerprint=record.fingerprint),
            ),
            frames,
            [images, labels, *weights],
            config,
            options,
            device,
            work,
        )


def _new_network(
    spec: NetworkSpec,
    space: LabelSpace,
    seen: InputSpec,
    seed: int,
    initial: Path | Bundle | None,
    note: Callable[[str], None],
) -> SegmentationNetwork:
    """Build a network with random weights, or those of ``initial``."""
    torch.manual_seed(seed)
    if isinstance(initial, Bundle):
        return load_network(initial, torch.device("cpu"))
    network = new_network(spec, space, (seen.width, seen.height), note)
    if initial is not None:
        load_initial_weights(network, initial, label_space=space.name, note=note)
    return network


def _check_learning(
    network: SegmentationNetwork, spec: NetworkSpec, seen: InputSpec, config: RunConfig
) -> None:
    """Refuse, before any frame is decoded, what cannot take the steps that the method has."""
    stages = build_stages(config)
    find_method(config.method).check(network)
    for stage in stages:
        stage.check(network)
    if stages:
        check_part(network, config.training.learn, config.method)
    if stages and not check_learning(network, spec, (seen.width, seen.height)):
        raise nothing_learns(config.method)


def _device(options: RunOptions, config: RunConfig) -> torch.device:
    """The run's device; losses that cannot be computed there are refused before any work."""
    device = pick_device(options.device)
    if config.loss_backend != "auto":
        choose_kernel(config.loss_backend, device)
    return device


def _frame_size(config: RunConfig, spec: InputSpec) -> tuple[int, int]:
    """Width and height of the run's frames; refused where one does not fit the memory."""
    width, height = config.training.frame_size or (spec.width, spec.height)
    check_frame_size(config.training, width, height)
    return width, height


def _target_frames(
    sources: Sequence[str | Path],
    width: int,
    height: int,
    options: RunOptions,
    work: Work,
    limit: int | None,
) -> FrameSet:
    with work.deadline.part(DECODING):
        frames = target_frames(
            sources,
            width,
            height,
            options.workspace.folder,
            limit=limit,
            work=work,
        )
        check_not_blank(frames, [str(source) for source in sources])
        return frames
