"""Pairs of incumbent and candidate with their true mIoU difference, for `judging.py`.

    python benchmarks/judging_pairs.py --work DIR [--part 0/2]

A grid of source models (seeds), built-in shifts from none through mild to severe, and ways to
adapt: some that work, some made to fail. Every candidate is measured on frames that neither
adaptation nor the judge sees; labels serve that purpose alone. What is in DIR already is kept, so
that an interrupted run goes on, and ``--part`` splits the grid over processes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from roadshift.adapt import RunOptions, adapt_bundle, resolve_config, train_bundle
from roadshift.adapt.models.loading import IMAGENET_INPUT
from roadshift.runtime.bench.evaluation import evaluate
from roadshift.runtime.bundle import NetworkSpec, open_bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import RoadshiftError
from roadshift.runtime.folders.label_pairs import labelled_pairs
from roadshift.runtime.labels import label_space
from roadshift.runtime.labels.metrics import evaluation_record
from roadshift.scenes import DOMAINS, Domain, render_dataset

WIDTH, HEIGHT = 320, 160
SOURCE_FRAMES, TARGET_FRAMES, MEASURED_FRAMES = 240, 120, 48
TRAIN = (
    "training.steps=500",
    "training.lr=4e-3",
    "training.crop_size=[256,128]",
    "training.amp=off",
)
SEEDS = 4
SHIFTS: dict[str, tuple[str, float]] = {  # towards which domain from daylight, and how far
    "none": ("daylight", 0.0),
    "camera-0.3": ("camera", 0.3),
    "dusk-0.4": ("dusk", 0.4),
    "rain-0.4": ("rain", 0.4),
    "dusk": ("dusk", 1.0),
    "fog-0.5": ("fog", 0.5),
    "camera": ("camera", 1.0),
    "rain": ("rain", 1.0),
    "fog": ("fog", 1.0),
    "night": ("night", 1.0),
    "night_fog": ("night_fog", 1.0),
}
SHIFTS_OF = (  # of even seeds, of odd ones
    ("none", "camera-0.3", "dusk-0.4", "dusk", "camera", "fog", "night"),
    ("none", "rain-0.4", "fog-0.5", "dusk", "rain", "night", "night_fog"),
)
QUICK = ("training.batch_size=4", "training.amp=off")
COLD = ("tone=none", "warm_start=source", "freeze_bn=false", "weight_interpolation=1.0")
PUBLISHED_IAPC = (
    "iapc.weight_ia=0.2",
    "iapc.weight_pe=0.5",
    "iapc.weight_ps=0.04",
    "iapc.weight_im=2.0",
)


@dataclass(frozen=True)
class Way:
    """A way to make a candidate: a method with settings, perhaps on the wrong frames."""

    method: str
    settings: tuple[str, ...] = ()
    frames: str | None = None  # of this shift instead of the pair's own


WAYS: dict[str, Way] = {
    # that work, more or less
    "bn_stats": Way("bn_stats"),  # mixed
    "replaced": Way("bn_stats", ("bn_stats.variant=paper",)),
    "nightshift": Way("nightshift", ("training.steps=60", *QUICK)),
    "iapc": Way("iapc", ("training.steps=40", *QUICK)),
    "tent": Way("tent", ("training.steps=40", *QUICK)),
    "atp": Way("atp", ("training.steps=40", *QUICK)),
    "shot_im": Way("shot_im", ("training.steps=40", *QUICK)),
    "pseudo": Way("pseudo", ("training.steps=40", *QUICK)),
    # made to fail
    "entmin-long": Way("entmin", ("training.steps=80", "training.lr=1e-2", *QUICK, *COLD)),
    "entmin-hot": Way(
        "entmin", ("training.steps=40", "training.lr=2e-2", *QUICK, "weight_interpolation=1.0")
    ),
    "iapc-cold": Way(
        "iapc", (*PUBLISHED_IAPC, "training.steps=50", "training.lr=3e-3", *QUICK, *COLD)
    ),
    "ld-cold": Way("ld", ("training.steps=50", "training.lr=3e-3", *QUICK, *COLD)),
    "tent-hot": Way("tent", ("training.steps=40", "training.lr=5e-2", *QUICK, *COLD)),
    "pseudo-hot": Way("pseudo", ("training.steps=40", "training.lr=2e-2", *QUICK, *COLD)),
    "wrong-night": Way("bn_stats", (), "night"),
    "wrong-fog": Way("shot_im", ("training.steps=30", *QUICK), "fog"),
    "wrong-none": Way("nightshift", ("training.steps=30", *QUICK), "none"),
}
EVERYWHERE = ("bn_stats", "replaced")
OTHERS = tuple(way for way in WAYS if way not in EVERYWHERE)
OTHERS_EACH = 3  # of the other ways in every cell of seed and shift, in turn


def cells() -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Seed, shift, ways."""
    turn = 0
    for seed in range(SEEDS):
        for shift in SHIFTS_OF[seed % 2]:
            others = tuple(OTHERS[(turn + i) % len(OTHERS)] for i in range(OTHERS_EACH))
            turn += OTHERS_EACH
            own = {"none": "wrong-none", "fog": "wrong-fog", "night": "wrong-night"}.get(shift)
            yield seed, shift, EVERYWHERE + tuple(way for way in others if way != own)
        turn += 2  # so that a way meets other shifts with the next seed


def domain_of(shift: str) -> Domain:
    """The domain that lies a share of the way from daylight to another, field by field."""
    towards, share = SHIFTS[shift]

    def between(a: Any, b: Any) -> Any:
        return tuple(map(between, a, b)) if isinstance(a, tuple) else a + share * (b - a)

    fields = map(between, astuple(DOMAINS["daylight"])[1:], astuple(DOMAINS[towards])[1:])
    domain = Domain(f"{towards}-{share:g}", *fields)
    return replace(domain, drops=round(domain.drops))


def rendered(folder: Path, domain: Domain, count: int, seed: int) -> Path:
    if not (folder / "done").exists():
        render_dataset(folder, domain, count, seed=seed, width=WIDTH, height=HEIGHT)
        (folder / "done").touch()
    return folder


def frames_of(work: Path, shift: str, seed: int) -> tuple[Path, Path]:
    """Folders of the frames that the vehicle recorded, and of labelled frames for measuring."""
    first, domain = 1_000_000 * (seed + 1), domain_of(shift)
    folder = work / f"frames/{shift}-{seed}"
    return (
        rendered(folder / "target", domain, TARGET_FRAMES, first + 200_000),
        rendered(folder / "measured", domain, MEASURED_FRAMES, first + 300_000),
    )


def source_model(work: Path, seed: int) -> Path:
    frames = rendered(
        work / f"frames/source-{seed}", DOMAINS["daylight"], SOURCE_FRAMES, 1_000_000 * (seed + 1)
    )
    out = work / f"source-{seed}"
    return trained(out, frames, "cityscapes19", (WIDTH, HEIGHT), TRAIN, seed)


def trained(
    out: Path, frames: Path, space: str, size: tuple[int, int], settings: Sequence[str], seed: int
) -> Path:
    """A source model from ``images`` and ``labels`` in ``frames``, unless it is there."""
    if not out.exists():
        train_bundle(
            frames / "images",
            frames / "labels",
            label_space(space),
            NetworkSpec(name="fast_scnn"),
            IMAGENET_INPUT.model_copy(update={"width": size[0], "height": size[1]}),
            resolve_config("supervised", assignments=settings, seed=seed),
            RunOptions(out, device="cpu"),
        )
    return out


def candidate(work: Path, source: Path, shift: str, seed: int, name: str) -> Path | None:
    """The adapted bundle, or None if its adaptation ended with an error of its own."""
    target, _ = frames_of(work, WAYS[name].frames or shift, seed)
    return adapted(source, target, WAYS[name], seed, work / f"candidates/{shift}-{seed}-{name}")


def adapted(source: Path, target: Path, way: Way, seed: int, out: Path) -> Path | None:
    """A candidate that adapts to all but the last frames of ``target``; None if that fails."""
    failed = out.with_suffix(".failed")
    if failed.exists():
        return None
    if not out.exists():
        config = resolve_config(way.method, assignments=way.settings, seed=seed)
        try:
            adapt_bundle(
                open_bundle(source),
                adapted_on(target),
                config,
                RunOptions(out, overwrite=True, device="cpu"),
            )
        except RoadshiftError as error:
            failed.write_text(str(error))
            return None
    return out


def judged_on(folder: Path) -> list[Path]:
    """The last frames of a recording, which adaptation does not see: a tenth, but at least 16."""
    images = sorted((folder / "images").iterdir())
    return images[-max(len(images) // 10, min(16, len(images) // 4)) :]


def adapted_on(folder: Path) -> list[Path]:
    """The frames before `judged_on`."""
    images = sorted((folder / "images").iterdir())
    return images[: -len(judged_on(folder))]


def measured(work: Path, bundle: Path, shift: str, seed: int) -> dict[str, Any]:
    """See `measured_on`; on frames of this shift and seed that nothing else sees."""
    return measured_on(work / f"measured/{shift}-{seed}", bundle, frames_of(work, shift, seed)[1])


def measured_on(kept: Path, bundle: Path, folder: Path) -> dict[str, Any]:
    """`roadshift eval`'s record of a bundle, kept in the folder ``kept``."""
    path = kept / f"{bundle.name}.json"
    if not path.exists():
        with open_engine(bundle, backend="torch", device="cpu") as engine:
            confusion = evaluate(engine, labelled_pairs(folder / "images", folder / "labels"))
            record = evaluation_record(confusion, engine.label_space, engine.backend)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
    return dict(json.loads(path.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", default="0/1", help="which of how many processes this is")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    torch.set_num_threads(1)
    work: Path = arguments.work
    (work / "candidates").mkdir(parents=True, exist_ok=True)
    for number, (seed, shift, ways) in enumerate(cells()):
        if seed % parts != part:
            continue
        source = source_model(work, seed)
        before = measured(work, source, shift, seed)["miou"]
        line = [f"{before:.1f}"]
        for name in ways:
            started = time.monotonic()
            bundle = candidate(work, source, shift, seed, name)
            miou = None if bundle is None else measured(work, bundle, shift, seed)["miou"]
            line.append(f"{name} {miou} ({time.monotonic() - started:.0f} s)")
        print(number, seed, shift, *line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
