"""`roadshift demo`: the whole loop on built-in scenes, on any machine, in a few minutes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..adapt import Events, RunOptions, adapt_bundle, resolve_config, train_bundle
from ..adapt.models.loading import IMAGENET_INPUT
from ..runtime.atomic import output_errors
from ..runtime.bench import BenchSettings, bench_bundle
from ..runtime.bench.evaluation import measure
from ..runtime.bundle import NetworkSpec
from ..runtime.bundle.manifest import MANIFEST_NAME
from ..runtime.engines import open_engine
from ..runtime.errors import OutputError, arg
from ..runtime.file_names import check_name
from ..runtime.folders.label_pairs import labelled_pairs
from ..runtime.frames.images import read_frame_image, write_image
from ..runtime.labels import label_space, read_labels
from ..runtime.labels.metrics import label_agreement
from ..runtime.pipeline.overlay import qualitative
from ..scenes import render_dataset
from .artefacts import export_bundle

WIDTH, HEIGHT = 320, 160
SOURCE_DOMAIN, TARGET_DOMAIN = "daylight", "dusk"
TRAIN_FRAMES, TARGET_FRAMES, HELDOUT_FRAMES = 240, 82, 40  # the gate takes 18 of the 82
TRAIN_SETTINGS = ("training.steps=260", "training.lr=4e-3", "training.crop_size=[256,128]")
ADAPT_SETTINGS = ("training.steps=40", "training.batch_size=4")
PICTURES = 3


def run_demo(out: Path, *, seed: int, overwrite: bool, events: Events) -> dict[str, Any]:
    """Render scenes, train on one domain, adapt to another, export, run and measure.

    Leaves in ``out``: ``source/`` and ``adapted/`` (bundles, the second exported), ``scenes/``
    (training scenes, adaptation frames, held-out frames of both domains) and ``before-after.png``.

    Returns:
        ``{"in_domain", "source_only", "adapted", "exported": eval records, "label_agreement",
        "gain", "verdict": see `Verdict`, "bench": [rows], "seconds"}``; all but ``in_domain`` and
        the verdict are measured on held-out frames of the target domain.

    Raises:
        OutputError: ``out`` exists, or cannot be written.
    """
    started, note = time.monotonic(), events.note
    _prepare(out, overwrite)
    scenes = out / "scenes"
    note(f"rendering {SOURCE_DOMAIN} and {TARGET_DOMAIN} scenes, {WIDTH}x{HEIGHT}")
    _render(scenes, seed)
    space = label_space("cityscapes19")

    note(f"training fast_scnn on {TRAIN_FRAMES} {SOURCE_DOMAIN} scenes")
    source = train_bundle(
        scenes / "source/images",
        scenes / "source/labels",
        space,
        NetworkSpec(name="fast_scnn"),
        IMAGENET_INPUT.model_copy(update={"width": WIDTH, "height": HEIGHT}),
        resolve_config("supervised", assignments=TRAIN_SETTINGS, seed=seed),
        RunOptions(out / "source", events=events),
    )
    note(f"adapting it to {TARGET_FRAMES} unlabelled {TARGET_DOMAIN} frames with Nightshift")
    adapted = adapt_bundle(
        source,
        [scenes / "target/images"],
        resolve_config("nightshift", assignments=ADAPT_SETTINGS, seed=seed),
        RunOptions(out / "adapted", events=events),
        gated=True,
    )
    note("exporting to ONNX and comparing with torch")
    heldout = scenes / "heldout"
    export_bundle(adapted, ("onnx",), frames=[str(heldout / "images")])

    note(f"measuring on {HELDOUT_FRAMES} {TARGET_DOMAIN} frames that adaptation did not see")
    pairs = labelled_pairs(heldout / "images", heldout / "labels")
    day = labelled_pairs(scenes / "indomain/images", scenes / "indomain/labels")
    in_domain = _measure(out / "source", "torch", day)
    before = _measure(out / "source", "torch", pairs)
    after = _measure(out / "adapted", "torch", pairs)
    exported = _measure(out / "adapted", "onnxruntime", pairs)
    agreement = _agreement(out / "adapted", pairs)
    _picture(out, pairs)
    rows = bench_bundle(
        out / "adapted",
        BenchSettings(frames=heldout / "images", labels=heldout / "labels", queries=100),
        note=note,
    )
    verdict = adapted.manifest.verdict
    assert verdict is not None  # it was gated
    return {
        "in_domain": in_domain,
        "source_only": before,
        "adapted": after,
        "exported": exported,
        "gain": after["miou"] - before["miou"],
        "label_agreement": agreement,
        "verdict": verdict.record(),
        "bench": [row for row in rows if row["error"] is None],
        "seconds": time.monotonic() - started,
    }


def _prepare(out: Path, overwrite: bool) -> None:
    """An empty ``out``; one that exists is cleared only if a demo made it and the user says so."""
    check_name(out, inside=True)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        ours = out.is_dir() and _is_a_demo(out)
        if not (overwrite and ours):
            advice = (
                f"use {arg('overwrite', True)}"
                if ours
                else "it is not a demo's, so choose another name"
            )
            raise OutputError(f"{out}: already exists; {advice}, or give another {arg('out')}.")
        with output_errors(out):
            shutil.rmtree(out)
    with output_errors(out):
        out.mkdir(exist_ok=True)


def _is_a_demo(folder: Path) -> bool:
    """Tell whether everything in a folder is what a demo leaves there, finished or not."""
    scenes, bundles = folder / "scenes", [folder / "source", folder / "adapted"]
    return (
        {path.name for path in folder.iterdir()} <= _LEFT
        and scenes.is_dir()
        and {path.name for path in scenes.iterdir()} <= _SCENES
        and all((path / MANIFEST_NAME).is_file() for path in bundles if path.exists())
    )


_SCENES = {"source", "indomain", "target", "heldout"}
_LEFT = {"scenes", "source", "source.run", "adapted", "adapted.run", "before-after.png"}


def _render(scenes: Path, seed: int) -> None:
    """The four sets; their scene seeds do not overlap."""
    first = 1_000_000 * (seed + 1)
    for name, domain, count, offset in (
        ("source", SOURCE_DOMAIN, TRAIN_FRAMES, 0),
        ("indomain", SOURCE_DOMAIN, HELDOUT_FRAMES, 100_000),
        ("target", TARGET_DOMAIN, TARGET_FRAMES, 200_000),
        ("heldout", TARGET_DOMAIN, HELDOUT_FRAMES, 300_000),
    ):
        render_dataset(
            scenes / name, domain, count, seed=first + offset, width=WIDTH, height=HEIGHT
        )


def _measure(bundle: Path, backend: str, pairs: Sequence[tuple[Path, Path]]) -> dict[str, Any]:
    with open_engine(bundle, backend=backend) as engine:
        return measure(engine, pairs)


def _agreement(bundle: Path, pairs: Sequence[tuple[Path, Path]]) -> float:
    """Percent of the frames' pixels on which the exported model and torch agree."""
    with (
        open_engine(bundle, backend="torch") as torch_engine,
        open_engine(bundle, backend="onnxruntime") as onnx_engine,
    ):
        images = [read_frame_image(path) for path, _ in pairs]
        shares = [
            label_agreement(torch_engine.segment(image), onnx_engine.segment(image))
            for image in images
        ]
    return sum(shares) / len(shares)


def _picture(out: Path, pairs: Sequence[tuple[Path, Path]]) -> None:
    """``before-after.png``: a few frames, ground truth, source only, adapted."""
    with (
        open_engine(out / "source", backend="torch") as source,
        open_engine(out / "adapted", backend="onnxruntime") as adapted,
    ):
        frames = []
        for image_path, label_path in pairs[:: max(1, len(pairs) // PICTURES)][:PICTURES]:
            image = read_frame_image(image_path)
            maps = {
                "ground truth": read_labels(label_path, source.label_space),
                "source only": source.segment(image),
                "adapted": adapted.segment(image),
            }
            frames.append((image, maps))
        picture = qualitative(frames, source.label_space, height=HEIGHT)
    write_image(out / "before-after.png", picture)
