"""Comparing as a user asks for it: the methods, the labelled images and the label map."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ...runtime.bench.evaluation import labels_through
from ...runtime.bundle import open_bundle
from ...runtime.errors import ConfigError, FrameError, LabelError, arg
from ...runtime.folders.label_pairs import labelled_pairs
from ..run.options import RunOptions
from .ablations import ablation_variants, find_ablation, read_ablation
from .compare import Comparison, Pairs, compare
from .method_variants import choose_variants


def compare_methods(
    source: Path,
    frames: Sequence[str],
    labels: Path,
    options: RunOptions,
    *,
    images: Path | None = None,
    label_space: str | None = None,
    label_map: Path | None = None,
    methods: Sequence[str] | None = None,
    ablation: str | None = None,
    assignments: Sequence[str] = (),
    seeds: int = 1,
    steps: int | None = None,
    max_frames: int | None = None,
    allow_networks: Collection[str] = (),
) -> Comparison:
    """Adapt a source model with several methods, or one in several settings; measure each result.

    Args:
        source: a bundle's folder.
        frames: target frames: folders, images, videos, bags.
        labels, images: see `measured_pairs`.
        options: its ``out`` is the folder of the comparison.
        label_space, label_map: of the label files, see `labels_through`.
        methods, assignments, seeds, steps: see `choose_variants`.
        ablation: name or file of a table whose rows are compared in place of methods, see
            `ablation_variants`.
        max_frames: use at most so many target frames, evenly spaced.
        allow_networks: modules whose code the bundle may name, see `open_bundle`.

    Raises:
        RunInterrupted: a signal came; calling it again goes on from there.
        RoadshiftError: of what concerns all methods, see `compare`.
    """
    table = None
    if ablation is None:
        variants = choose_variants(methods, assignments, seeds=seeds, steps=steps)
    elif methods is not None:
        raise ConfigError(
            f"{arg('ablation')}: its table is of one method, so {arg('methods')} says nothing "
            "more; leave one of the two out."
        )
    else:
        file = find_ablation(ablation)
        table = read_ablation(file)
        variants = ablation_variants(file, assignments, seeds=seeds, steps=steps)
    pairs = measured_pairs(frames, images, labels)
    bundle = open_bundle(source, allow_networks=allow_networks)
    mapping = labels_through(bundle.label_space, label_space, label_map, note=options.events.note)
    return compare(
        bundle,
        frames,
        pairs,
        variants,
        options,
        label_map=mapping,
        max_frames=max_frames,
        ablation=table,
    )


def measured_pairs(frames: Sequence[str], images: Path | None, labels: Path) -> Pairs:
    """Labelled images to measure on: those of ``images``, or the target frames themselves.

    Raises:
        FrameError, LabelError: see `labelled_pairs`; or without ``images``, ``frames`` is not one
            folder.
    """
    if images is not None:
        return labelled_pairs(images, labels)
    named = [one for one in frames if not {":", "#"} & set(one)]  # no stream, and no topic
    missing = next((one for one in named if not Path(one).exists()), None)
    if missing is not None:
        raise FrameError(f"{missing} does not exist; give the folder of the target frames.")
    if len(frames) != 1 or not Path(frames[0]).is_dir():
        raise LabelError(
            f"{arg('labels')} alone measures on the target frames, and these are not one folder of "
            f"images; give the folder of the labelled images with {arg('images')}."
        )
    return labelled_pairs(frames[0], labels)
