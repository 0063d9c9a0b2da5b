"""From a recipe, its data set and its checkpoint to the figures of a published row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...runtime.atomic import output_errors, write_whole
from ...runtime.bench.evaluation import evaluate
from ...runtime.bundle import Bundle, check_output, open_bundle
from ...runtime.errors import (
    ConfigError,
    FrameError,
    LabelSpaceError,
    NetworkError,
    OutputError,
    arg,
)
from ...runtime.file_names import check_name
from ...runtime.frames.images import read_image
from ...runtime.frames.preprocess import fit_frame
from ...runtime.labels import label_space
from ...runtime.labels.layouts import layout
from ...runtime.labels.metrics import evaluation_record
from ...runtime.printable import encodable
from ...runtime.strict_json import JsonError, read_json
from ..black_boxes import BlackBox, Student
from ..methods import adapting_method, resolve_config
from ..models.importing import load_weights_file, save_weights
from ..models.loading import load_network, pick_device
from ..models.torch_engine import TorchEngine
from ..networks.foreign.trust import check_allowed
from ..run.config import RunConfig
from ..run.options import RunOptions
from .adaptation import adapt_black_box, adapt_bundle
from .import_bundle import import_bundle
from .method_variants import check_seeds
from .recipes import Recipe, read_recipe

Pairs = Sequence[tuple[Path, Path]]
RESULT = "result.json"


class RecipeEngine(TorchEngine):
    """A bundle as papers measure it: classes are decided at the size of the label maps.

    labels = argmax_c upsample(f(frame at input_size), evaluation_size)_c
    """

    def __init__(self, bundle: Bundle, recipe: Recipe, device: torch.device) -> None:
        width, height = recipe.input_size
        super().__init__(
            load_network(bundle, device),
            bundle.label_space,
            bundle.manifest.input.model_copy(update={"width": width, "height": height}),
            device=device,
        )
        self.label_size = (recipe.evaluation_size[1], recipe.evaluation_size[0])
        self._segmenter.size = self.label_size

    @torch.inference_mode()
    def probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities of the classes of a frame, (H, W, 3) uint8, at the stride: (K, h, w)."""
        fitted = fit_frame(image, self.input.width, self.input.height)
        images = torch.from_numpy(fitted[None]).to(self._device)
        logits = self._segmenter.scores(images)[1]
        found: NDArray[np.float32] = logits[0].float().softmax(dim=0).cpu().numpy()
        return found


def reproduce(
    file: Path,
    data: Path,
    checkpoint: Path,
    options: RunOptions,
    *,
    seed: int | None = None,
    seeds: int = 1,
    initial: Path | None = None,
    allow_networks: Collection[str] = (),
) -> dict[str, Any]:
    """Adapt a recipe's source model to its target's training images and measure both models.

    Labels are read to measure, never to adapt. Of a black-box method the source model gives answers
    alone, and a student of the recipe's network learns from them.

    Args:
        file: the recipe.
        data: root of the target's data set, laid out as it is published.
        checkpoint: the source model, a file to import or a bundle.
        options: how the run is carried out; with ``resume`` what is done already is kept. Its
            ``out`` is the folder of the bundles ``source`` (unless given) and ``adapted``
            (``adapted-seed0`` and so on for several seeds), and ``result.json``.
        seed: the recipe's unless given.
        seeds: runs; several have the seeds 0 to ``seeds - 1``.
        initial: weights that a black box's student starts from; random ones unless given.
        allow_networks: modules whose code the recipe or the bundle may name, see `open_bundle`.

    Returns:
        ``recipe``, ``row``, ``method``, ``evaluation_size``, ``frames`` adapted on, ``published``
        (see `Published`), ``source_only`` and ``measured`` (records of `evaluation_record`, with
        ``miou_13`` where the paper gives that), and ``gain``, measured over source only. With
        several seeds ``measured`` is what they have in common, see `_over_seeds`, and ``seeds`` has
        ``seed``, ``measured`` and ``gain`` of each.

    Raises:
        RoadshiftError: any of its subclasses; the data set and its sizes are checked first.
    """
    recipe = read_recipe(file)
    check_allowed(recipe.network, allow_networks, f"{file}: its network")
    is_black_box = adapting_method(recipe.method).black_box
    if initial is not None and not is_black_box:
        raise ConfigError(
            f"{arg('initial')}: {recipe.method} starts from the source model; leave it out."
        )
    configs = _configs(recipe.method, file, seed, seeds)
    out, events = options.out, options.events
    kept = layout(recipe.data)
    folders, pairs = kept.frame_folders(data), kept.labelled_pairs(data)
    _check_size(pairs[0][0], recipe)
    run_on = pick_device(options.device)
    source = _given_bundle(recipe, checkpoint, allow_networks) if checkpoint.is_dir() else None
    check_name(out, inside=True)
    with output_errors(out):
        out.mkdir(exist_ok=True)
        _check_ours(out / RESULT)
    if not options.resume:
        for name in configs:
            check_output(out / name, options.overwrite)
    source = source or _imported(recipe, checkpoint, options, allow_networks)

    def measure(bundle: Bundle, stage: str) -> dict[str, Any]:
        engine = RecipeEngine(bundle, recipe, run_on)
        stopped = f"stopped while measuring ({stage}); go on with {arg('resume', True)}."
        report = replace(events, stopped=stopped).measuring(stage)
        confusion = evaluate(engine, pairs, None, report, kept.ids)
        record = evaluation_record(confusion, bundle.label_space, engine.backend)
        if recipe.published.miou_13 is not None:
            record["miou_13"] = _mean_over("synthia13", record["iou"])
        events.note(
            f"{stage}: {record['miou']:.1f} mIoU at "
            f"{recipe.evaluation_size[0]}x{recipe.evaluation_size[1]}"
        )
        return record

    source_only = measure(source, "source only")
    runs = []
    if is_black_box and initial is None:
        events.note(
            "The student begins with random weights, which the paper's did not: "
            f"{arg('init')} takes ImageNet's."
        )
    for name, config in configs.items():
        run = replace(options, out=out / name)
        if is_black_box:
            student = Student(recipe.network, input_size=recipe.input_size, initial=initial)
            adapted = adapt_black_box(
                _answers_of(source, recipe, run_on), folders, config, run, student
            )
        else:
            adapted = adapt_bundle(source, folders, config, run)
        measured = measure(adapted, name.replace("-seed", ", seed "))
        gain = measured["miou"] - source_only["miou"]
        runs.append({"seed": config.seed, "measured": measured, "gain": gain})
        frames = adapted.manifest.provenance.frames
    measured = runs[0]["measured"] if seeds == 1 else _over_seeds([r["measured"] for r in runs])
    result = {
        "recipe": file.stem,
        "row": recipe.row,
        "method": recipe.method,
        "evaluation_size": list(recipe.evaluation_size),
        "frames": frames,
        "published": recipe.published.model_dump(),
        "source_only": source_only,
        "measured": measured,
        "gain": measured["miou"] - source_only["miou"],
        **({} if seeds == 1 else {"seeds": runs}),
    }
    write_whole(out / RESULT, json.dumps(result, indent=2).encode())
    return result


def _answers_of(source: Bundle, recipe: Recipe, device: torch.device) -> BlackBox:
    """The source model as its answers."""
    engine = RecipeEngine(source, recipe, device)
    return BlackBox(
        lambda _, image: engine.probabilities(image),
        source.hash,
        source.label_space,
        source.manifest.input,
    )


def _configs(method: str, file: Path, seed: int | None, seeds: int) -> dict[str, RunConfig]:
    """Settings of each run, by the name of its bundle.

    Raises:
        ConfigError: ``seeds`` is out of range, or says several where ``seed`` says which.
    """
    check_seeds(seeds)
    if seeds == 1:
        return {"adapted": resolve_config(method, file=file, seed=seed)}
    if seed is not None:
        raise ConfigError(
            f"{arg('seed')} and {arg('seeds')} are both given, and several seeds are counted from "
            "0; leave one of the two out."
        )
    return {f"adapted-seed{i}": resolve_config(method, file=file, seed=i) for i in range(seeds)}


def _over_seeds(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means and sample deviations over seeds: of mIoU and mIoU*, and the mean IoU of each class.

    A class that occurs in no label map has none.
    """
    found: dict[str, Any] = {}
    for key in ("miou", "miou_13"):
        values = [record[key] for record in records if key in record]
        if values:
            found |= {key: fmean(values), f"{key}_std": stdev(values)}
    classes = {name: [record["iou"][name] for record in records] for name in records[0]["iou"]}
    means = {name: None if None in ious else fmean(ious) for name, ious in classes.items()}
    return {**found, "iou": means}


def _check_ours(file: Path) -> None:
    """Refuse to replace a ``result.json`` that another program wrote."""
    if not file.exists():
        return
    try:
        found = read_json(file)
    except JsonError:
        found = None
    if not (isinstance(found, dict) and {"recipe", "published"} <= set(found)):
        raise OutputError(
            f"{file}: exists and is no result of this command, so it is never overwritten; give "
            f"another {arg('out')}."
        )


def _check_size(image_path: Path, recipe: Recipe) -> None:
    height, width = read_image(image_path).shape[:2]
    if (width, height) != recipe.evaluation_size:
        raise FrameError(
            f"{image_path} is {width}x{height}, and this row is measured at "
            f"{recipe.evaluation_size[0]}x{recipe.evaluation_size[1]}; use the data set's own "
            "files, not resized ones."
        )


def _imported(
    recipe: Recipe,
    checkpoint: Path,
    options: RunOptions,
    allow_networks: Collection[str],
) -> Bundle:
    """The weights of a file as a bundle, ``source``."""
    out = options.out / "source"
    if not (options.resume and out.exists()):
        return import_bundle(
            checkpoint,
            recipe.network,
            label_space(recipe.label_space),
            out,
            input_size=recipe.input_size,
            overwrite=options.overwrite,
            note=options.events.note,
        )
    bundle = open_bundle(out, allow_networks=allow_networks)
    named = bundle.manifest.provenance.configuration.get("weights")
    if named != encodable(checkpoint.name) or not _has_weights_of(bundle, checkpoint):
        raise OutputError(
            f"{out}: was not made from {checkpoint.name}; choose another {arg('out')}, or "
            f"start anew with {arg('overwrite', True)}."
        )
    return bundle


def _given_bundle(recipe: Recipe, checkpoint: Path, allow_networks: Collection[str]) -> Bundle:
    """A source model that is a bundle already, if the recipe is one for it."""
    space = label_space(recipe.label_space)
    bundle = open_bundle(checkpoint, allow_networks=allow_networks)
    if bundle.manifest.network.name != recipe.network:
        raise NetworkError(
            f"{checkpoint}: its network is {bundle.manifest.network.name}, and this row is "
            f"{recipe.network}'s; give a source model of that network."
        )
    if bundle.label_space.classes != space.classes:
        raise LabelSpaceError(
            f"{checkpoint}: its label space is {bundle.label_space.name}, and this row is measured "
            f"in {space.name}; give a source model of these classes."
        )
    return bundle


def _has_weights_of(bundle: Bundle, checkpoint: Path) -> bool:
    """Tell whether an imported bundle holds what ``checkpoint`` holds now."""
    network = load_network(bundle, torch.device("cpu"))
    load_weights_file(network, checkpoint, label_space=bundle.label_space.name)
    artefact = bundle.artefact(kind="weights")
    digest = hashlib.sha256(save_weights(network)).hexdigest()
    return artefact is not None and artefact.sha256 == digest


def _mean_over(space: str, iou: dict[str, float | None]) -> float:
    """Mean IoU over the classes of ``space`` that occur."""
    found = [value for name in label_space(space).classes if (value := iou[name]) is not None]
    return sum(found) / len(found)
