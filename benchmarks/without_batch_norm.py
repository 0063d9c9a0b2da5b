"""Adaptation and the gate where there is no batch norm. Writes docs/results/without-batch-norm.md.

    python benchmarks/without_batch_norm.py --work DIR [--seeds 3] [--roads dusk night]

Small SegFormers, and one of B0's own size, learn from the built-in daylight and adapt to other
roads: with each of the parts that may learn (``training.learn``), with other methods, with some
that go wrong, and by sabotage of the weights or of the answers. Every candidate is judged on frames
that it did not learn from, and measured with labels on others. What is in the folder already is
kept, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from evidence_file import from_json, to_json
from judging_pairs import Way, adapted, adapted_on, judged_on, measured_on, rendered
from machine_line import machine_line
from roadshift.adapt import RunOptions, load_network, resolve_config, train_bundle
from roadshift.adapt.judging.evidence import gather
from roadshift.adapt.judging.verdict import decide
from roadshift.adapt.models.importing import save_weights
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.models.loading import IMAGENET_INPUT
from roadshift.adapt.networks import SegmentationNetwork
from roadshift.adapt.networks.mixed_statistics import reestimate_batch_norm
from roadshift.adapt.scoring.views import ScoredModel
from roadshift.runtime.bundle import BundleWriter, NetworkSpec, open_bundle
from roadshift.runtime.frames.images import read_frame_image
from roadshift.runtime.labels import label_space
from roadshift.scenes import DOMAINS

PAGE = Path("docs/results/without-batch-norm.md")
TEMPLATE = Path(__file__).with_name("without_batch_norm_page.md")
WIDTH, HEIGHT = 256, 128
NARROW = NetworkSpec(
    name="segformer_b0",
    arguments={"widths": [16, 32, 80, 128], "decoder_width": 64, "drop_path": 0.0},
)
B0 = NetworkSpec(name="segformer_b0", arguments={"drop_path": 0.0})
NETWORKS = (NARROW, NARROW, B0)  # by seed
SOURCE_FRAMES, TARGET_FRAMES, MEASURED_FRAMES = 320, 72, 40
TRAIN = (
    "training.steps=700",
    "training.batch_size=8",
    "training.optimizer=adamw",
    "training.lr=1.5e-3",
    "training.classifier_lr_factor=1.0",
    "training.weight_decay=0.01",
    "training.warmup_steps=40",
    "training.amp=off",
)
STILL = (
    "warm_start=source",
    "final_bn=false",
    "freeze_bn=true",
)  # the one batch norm as the source left it
SHORT = (
    "training.steps=40",
    "training.amp=off",
    "nightshift.scales=[1.0]",
    *STILL,
    "nightshift.align=true",
)
OWN_RATE = ("training.amp=off", "training.lr=1e-3")
PARTS = ("all", "norm", "head", "lora", "norm, 10 times the rate", "lora, 10 times the rate")
WAYS: dict[str, Way] = {
    "all": Way("nightshift", SHORT),
    "norm": Way("nightshift", (*SHORT, "training.learn=norm")),
    "head": Way("nightshift", (*SHORT[:-1], "training.learn=head", "nightshift.align=false")),
    "lora": Way("nightshift", (*SHORT, "training.learn=lora")),
    "norm, 10 times the rate": Way(
        "nightshift", (*SHORT, "training.learn=norm", "training.lr=0.01")
    ),
    "lora, 10 times the rate": Way(
        "nightshift", (*SHORT, "training.learn=lora", "training.lr=0.01")
    ),
    "statistics mixed": Way("bn_stats", ("training.amp=off",)),
    "statistics mixed, then lora, 10 times the rate": Way(
        "nightshift",
        (*SHORT[:3], "training.learn=lora", "training.lr=0.01"),
    ),
    "tone_only": Way("tone_only", ("training.amp=off",)),
    "hot": Way("nightshift", (*SHORT, "training.lr=0.03")),  # 30 times the rate
    "entmin": Way(
        "entmin",
        ("training.steps=40", *OWN_RATE, *STILL, "weight_interpolation=1.0"),
    ),
    "entmin, lora": Way(
        "entmin",
        (
            *("training.steps=80", "training.amp=off", "training.lr=0.01", "training.learn=lora"),
            *(*STILL, "weight_interpolation=1.0"),
        ),
    ),
    "tent": Way("tent", ("training.steps=40", "training.amp=off", "training.lr=0.01", *STILL)),
    "pseudo": Way("pseudo", ("training.steps=40", *OWN_RATE, *STILL)),
    "iapc": Way("iapc", ("training.steps=40", *OWN_RATE, *STILL)),
    "entmin-hot": Way(
        "entmin",
        (
            *("training.steps=40", "training.amp=off", "training.lr=0.009", *STILL),
            "weight_interpolation=1.0",
        ),
    ),
}
SETTING, TESTING = ("dusk", "fog"), ("rain", "night")  # roads that may set thresholds, and others
SETTING_SEEDS = (0, 1)  # source models that may
FEWER = (  # on every road but the first
    *("all", "lora, 10 times the rate", "hot", "statistics mixed"),
    *("entmin", "entmin, lora", "tent", "pseudo", "iapc", "entmin-hot"),
)
HARM, WORTHWHILE = -1.0, 3.0  # points of mIoU
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, choices=(1, 2, 3), help="source models")
    parser.add_argument("--roads", nargs="*", help="of the four, all unless given")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work: Path = arguments.work
    (work / "candidates").mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(arguments.seeds):
        for road in arguments.roads or (*SETTING, *TESTING):
            for row in rows_of(work, seed, road):
                print(*row.values(), flush=True)
                rows.append(row)
    lines = ",\n".join(json.dumps(row) for row in rows)
    PAGE.with_suffix(".json").write_text(f"[\n{lines}\n]\n")
    PAGE.write_text(render(rows))


# --- candidates -----------------------------------------------------------------------------------


def source_model(work: Path, seed: int) -> Path:
    """A SegFormer trained on daylight."""
    first = 1_000_000 * (seed + 1)
    frames = rendered(work / f"frames/source-{seed}", DOMAINS["daylight"], SOURCE_FRAMES, first)
    out = work / f"source-{seed}"
    if not out.exists():
        train_bundle(
            frames / "images",
            frames / "labels",
            label_space("cityscapes19"),
            NETWORKS[seed],
            IMAGENET_INPUT.model_copy(update={"width": WIDTH, "height": HEIGHT}),
            resolve_config("supervised", assignments=TRAIN, seed=seed),
            RunOptions(out, device="cpu", resume=(work / f"source-{seed}.run").exists()),
        )
    return out


def frames_of(work: Path, seed: int, road: str) -> tuple[Path, Path]:
    """Folders of the frames that the vehicle recorded, and of labelled frames for measuring."""
    first, folder = 1_000_000 * (seed + 1), work / f"frames/{road}-{seed}"
    return (
        rendered(folder / "target", DOMAINS[road], TARGET_FRAMES, first + 200_000),
        rendered(folder / "measured", DOMAINS[road], MEASURED_FRAMES, first + 300_000),
    )


def of_one_layer(frames: Sequence[Path], share: float) -> Callable[[Any], None]:
    """A change of the one batch norm: its statistics mixed with those of the frames."""

    def change(network: SegmentationNetwork) -> None:
        normalise = Normalise(IMAGENET_INPUT)
        images = (torch.from_numpy(read_frame_image(path)[None]) for path in frames)
        reestimate_batch_norm(network, (normalise(image) for image in images), share)

    return change


def sabotages(frames: Sequence[Path]) -> dict[str, tuple[Callable[[Any], None], float]]:
    """Changes of a network in place, and of the gamma of its input, by name.

    Classes change places in the classifier's rows, so that the candidate is a network like any.
    """
    return {
        "one layer's statistics, half": (of_one_layer(frames, 0.5), 1.0),
        "one layer's statistics, all": (of_one_layer(frames, 1.0), 1.0),
        "permuted": (lambda n: rows(n, [*range(1, 19), 0]), 1.0),
        "swapped road, sidewalk": (lambda n: rows(n, [1, 0, *range(2, 19)]), 1.0),
        "swapped vegetation, sky": (lambda n: rows(n, swapped(8, 10)), 1.0),
        "suppressed person": (lambda n: biased(n, 11, -5.0), 1.0),
        "suppressed car": (lambda n: biased(n, 13, -5.0), 1.0),
        "noise 0.1": (lambda n: noise(n, 0.1), 1.0),
        "noise 0.3": (lambda n: noise(n, 0.3), 1.0),
        "gamma 0.4": (lambda _: None, 0.4),
    }


def swapped(a: int, b: int) -> list[int]:
    order = list(range(19))
    order[a], order[b] = b, a
    return order


@torch.no_grad()
def rows(network: SegmentationNetwork, order: Sequence[int]) -> None:
    """Give each class the row of the classifier that another had."""
    for parameter in network.classifier_parameters():
        parameter.copy_(parameter[list(order)])


@torch.no_grad()
def biased(network: SegmentationNetwork, index: int, by: float) -> None:
    for parameter in network.classifier_parameters():
        if parameter.ndim == 1:
            parameter[index] += by


@torch.no_grad()
def noise(network: SegmentationNetwork, share: float) -> None:
    """Add noise to every matrix and kernel, of this share of its deviation."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.add_(share * parameter.std() * drawn)


def sabotaged(
    work: Path, source: Path, target: Path, seed: int, road: str
) -> Iterator[tuple[str, Path]]:
    """Candidates that differ from the source by one change each."""
    bundle = open_bundle(source)
    for name, (change, gamma) in sabotages(adapted_on(target)).items():
        out = work / f"candidates/{road}-{seed}-{file_name(name)}"
        if not out.exists():
            network = load_network(bundle, CPU)
            change(network)
            manifest = bundle.manifest
            with BundleWriter(out) as writer:
                writer.add_bytes("model.safetensors", save_weights(network), kind="weights")
                writer.commit(
                    network=manifest.network,
                    label_space=bundle.label_space,
                    input=manifest.input.model_copy(update={"gamma": gamma}),
                    provenance=manifest.provenance,
                )
        yield name, out


# --- rows -----------------------------------------------------------------------------------------


def rows_of(work: Path, seed: int, road: str) -> Iterator[dict[str, Any]]:
    """A row for each candidate of a road: truth, verdict, and its reason."""
    source = source_model(work, seed)
    target, labelled = frames_of(work, seed, road)
    kept = work / f"measured/{road}-{seed}"
    before = measured_on(kept, source, labelled)["miou"]
    for name, out in candidates(work, source, target, seed, road):
        after = measured_on(kept, out, labelled)["miou"]
        decision, sentence = judged(work, source, out, target)
        seconds = out.with_suffix(".seconds")
        yield {
            "seed": seed,
            "road": road,
            "candidate": name,
            "before": round(before, 2),
            "after": round(after, 2),
            "verdict": decision,
            "cpu_s": float(seconds.read_text()) if seconds.exists() else None,
            "sentence": sentence,
        }


def candidates(
    work: Path, source: Path, target: Path, seed: int, road: str
) -> Iterator[tuple[str, Path]]:
    """Candidates of a road, made unless they are there, with the CPU seconds of each run."""
    for name in WAYS if road == SETTING[0] else FEWER:
        out = work / f"candidates/{road}-{seed}-{file_name(name)}"
        made, began = not out.exists(), time.process_time()
        if adapted(source, target, WAYS[name], seed, out) is None:
            continue
        if made:
            out.with_suffix(".seconds").write_text(f"{time.process_time() - began:.1f}")
        yield name, out
    yield from sabotaged(work, source, target, seed, road)


def file_name(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name)


def judged(work: Path, incumbent: Path, candidate: Path, frames: Path) -> tuple[str, str]:
    kept = work / f"evidence/{candidate.name}.json"
    if not kept.exists():
        models = []
        for path in (incumbent, candidate):
            bundle = open_bundle(path)
            models.append(ScoredModel(load_network(bundle, CPU), bundle.manifest.input))
        images = (read_frame_image(path) for path in judged_on(frames))
        evidence = gather(models[0], models[1], images, CPU)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(to_json(evidence)))
    names = open_bundle(incumbent).label_space.classes
    verdict = decide(from_json(json.loads(kept.read_text())), names)
    return verdict.decision, verdict.sentence


# --- page -----------------------------------------------------------------------------------------

Row = Mapping[str, Any]


def gain(row: Row) -> float:
    return float(row["after"] - row["before"])


def render(rows: Sequence[Row]) -> str:
    page = TEMPLATE.read_text()
    marks = {"{machine}": machine_line(), "{parts}": parts_table(rows), "{gate}": gate_table(rows)}
    marks["{pairs}"] = pair_table(rows)
    marks["{statistics}"] = pair_table(
        [r for r in rows if r["candidate"].startswith(("one layer", "statistics mixed"))]
    )
    losers = [row for row in rows if row["verdict"] == "promote" and gain(row) < HARM]
    missed = [r for r in rows if r["verdict"] != "promote" and gain(r) >= WORTHWHILE]
    marks["{missed}"] = missed_table(missed)
    marks["{losers}"] = pair_table(losers) if losers else "None."
    for mark, text in marks.items():
        page = page.replace(mark, text)
    return page


def missed_table(rows: Sequence[Row]) -> str:
    """A row for each gain, with what was against it, but not the sentence that all have."""
    lines = ["| seed | road | candidate | gain | what was against it |", "|---" * 5 + "|"]
    for row in rows:
        against = re.sub(r"The network keeps no .*? signs must be there\. ?", "", row["sentence"])
        place = f"{row['seed']} | {row['road']} | {row['candidate']}"
        lines.append(f"| {place} | {gain(row):+.1f} | {against} |")
    return "\n".join(lines)


def parts_table(rows: Sequence[Row]) -> str:
    lines = [
        "| `training.learn` | road | source | adapted | gain | verdict | CPU s |",
        "|---" * 7 + "|",
    ]
    for part in PARTS:
        for row in rows:
            if row["candidate"] == part:
                seconds = "" if row["cpu_s"] is None else f"{row['cpu_s']:.0f}"
                road = f"{row['road']}, seed {row['seed']}"
                figures = f"{row['before']:.1f} | {row['after']:.1f} | {gain(row):+.1f}"
                lines.append(f"| {part} | {road} | {figures} | {row['verdict']} | {seconds} |")
    return "\n".join(lines)


def gate_table(rows: Sequence[Row]) -> str:
    parts: dict[str, Callable[[Row], bool]] = {
        "may set thresholds": lambda r: r["road"] in SETTING and r["seed"] in SETTING_SEEDS,
        "share road or source model with those": lambda r: (
            (r["road"] in SETTING) != (r["seed"] in SETTING_SEEDS)
        ),
        "test: neither road nor source model": lambda r: (
            r["road"] in TESTING and r["seed"] not in SETTING_SEEDS
        ),
    }
    lines = [f"| | {' | '.join(parts)} |", "|---|---|---|---|"]
    counts: dict[str, Callable[[Row], bool]] = {
        "pairs": lambda _: True,
        "promoted": lambda r: r["verdict"] == "promote",
        "of these worse by more than 1 point": lambda r: (
            r["verdict"] == "promote" and gain(r) < HARM
        ),
        "better by 3 points or more": lambda r: gain(r) >= WORTHWHILE,
        "of these promoted": lambda r: gain(r) >= WORTHWHILE and r["verdict"] == "promote",
        "worse by more than 1 point": lambda r: gain(r) < HARM,
        "of these a person is asked about": lambda r: gain(r) < HARM and r["verdict"] == "ask",
    }
    for title, holds in counts.items():
        found = [sum(holds(r) for r in rows if within(r)) for within in parts.values()]
        lines.append(f"| {title} | {' | '.join(map(str, found))} |")
    return "\n".join(lines)


def pair_table(rows: Sequence[Row]) -> str:
    lines = [
        "| seed | road | candidate | source | candidate's | gain | verdict |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        names = f"{row['seed']} | {row['road']} | {row['candidate']}"
        figures = f"{row['before']:.1f} | {row['after']:.1f} | {gain(row):+.1f}"
        lines.append(f"| {names} | {figures} | {row['verdict']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
