"""Whole adaptation steps a second and peak memory, by method and kernel.

    python benchmarks/step.py [--network fast_scnn] [--size 512x256] [--batch 2] [--device cuda]
                              [--methods all] [--steps 12] [--repeats 3] [--amp auto] [--clock wall]
                              [--out ...]

Every method takes its own steps, by `roadshift adapt`'s trainer, with our settings for small data
on whole frames of built-in scenes; "published" is IAPC's step as its authors' code takes it
(`published_iapc.py`), on batches made as ours are, and IAPC has its `reference` settings here. All
in one process, one after the other, over again for every repeat: ratios are those of one repeat to
its own published step. Every figure is the median over the repeats. Writes OUT.json and OUT.md.
Where others use the machine, ``--clock processor`` takes the time of the processors that the steps
have used in place of the wall's: with one thread the two are alike on a machine left alone.
Runs this short do not measure which precision pays (`precision.py` does): here ``--amp auto`` is
the first one below float32 that a GPU multiplies in hardware, and float32 on a CPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from losses import clock, memory_in_use
from machine_line import machine_line
from published_iapc import PublishedIapc
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import CropSampler, target_frames
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.losses.backends.choice import choose_kernel
from roadshift.adapt.methods import METHODS, build_stages, resolve_config
from roadshift.adapt.methods.iapc_config import AUTHORS_CODE
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.models.loading import IMAGENET_INPUT, device_name
from roadshift.adapt.networks import SegmentationNetwork, build_network
from roadshift.adapt.pseudo_labels.hard_labels import label_frames
from roadshift.adapt.run.budget import peak_memory
from roadshift.adapt.run.events import Events
from roadshift.adapt.run.options import RunOptions
from roadshift.adapt.run.precision import native_precisions
from roadshift.adapt.run.work import Work
from roadshift.adapt.training.compiling import to_memory_format
from roadshift.adapt.training.trainer import Trainer
from roadshift.commands.parse import parse_size
from roadshift.runtime.arguments import ProgressUpdate
from roadshift.runtime.bundle import library_versions
from roadshift.runtime.errors import ConfigError
from roadshift.scenes import render_dataset

CLASSES, FRAMES, SKIPPED = 19, 8, 2  # steps that are not timed: they fill caches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", default="fast_scnn")
    parser.add_argument("--size", default="512x256")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--methods", default="all", help="all, or names with commas")
    parser.add_argument("--steps", type=int, default=12, help="of each stage")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--amp", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.clock == "processor" and arguments.device != "cpu":
        parser.error("--clock processor is for --device cpu")
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.amp == "auto":
        arguments.amp = next(iter(native_precisions(device))) if device.type == "cuda" else "off"
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments, device)
    document = {
        "device": device_name(device),
        "machine": machine_line(),
        "threads": arguments.threads,
        "date": date.today().isoformat(),
        "versions": library_versions(),
        "network": arguments.network,
        "size": arguments.size,
        "batch": arguments.batch,
        "amp": arguments.amp,
        "clock": arguments.clock,
        "rows": rows,
    }
    out = arguments.out or Path(f"benchmarks/results/step-{arguments.network}-{device.type}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(document))
    print(table(document))


def measure(folder: Path, arguments: Any, device: torch.device) -> list[dict[str, Any]]:
    width, height = parse_size("--size", arguments.size)
    render_dataset(folder / "scenes", "dusk", FRAMES, seed=1, width=width, height=height)
    frames = target_frames([str(folder / "scenes/images")], width, height, folder)
    names = [name for name, method in METHODS.items() if not method.black_box]
    if arguments.methods != "all":
        names = arguments.methods.split(",")
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for _ in range(arguments.repeats):
        rows = [published(folder, frames, arguments, device)]
        for name in names:
            if build_stages(resolve_config(name)):
                for kernel in kernels(device):
                    rows += ours(folder, frames, arguments, device, name, kernel)
        for row in rows:
            found.setdefault((row["method"], row["stage"], row["kernel"]), []).append(row)
            print(json.dumps(row), flush=True)
    return [over_repeats(rows, next(iter(found.values()))) for rows in found.values()]


def over_repeats(
    rows: Sequence[dict[str, Any]], published: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """One row of the repeats' medians; with ratios where it is the published row's method."""
    merged = dict(rows[0])
    for key in ("steps a second", "peak MiB"):
        merged[f"{key}, each"] = [row[key] for row in rows]
        merged[key] = statistics.median(merged[f"{key}, each"])
        if rows[0]["method"] == published[0]["method"]:
            ratios = [row[key] / base[key] for row, base in zip(rows, published, strict=True)]
            merged[f"{key} of published"] = statistics.median(ratios)
    return merged


def kernels(device: torch.device) -> list[str]:
    """Kernels that this machine runs."""
    found = []
    for kernel in ("reference", "tiled", "triton"):
        with suppress(ConfigError):
            choose_kernel(kernel, device)
            found.append(kernel)
    return found


def published(
    folder: Path, frames: FrameSet, arguments: Any, device: torch.device
) -> dict[str, Any]:
    """Steps of `PublishedIapc`, on labels stored before."""
    before = memory_in_use(device)
    model = network(arguments, device)
    config = settings("iapc", "reference", arguments)
    sampler = CropSampler(frames, config.training, config.augment, 0)
    iapc = PublishedIapc(model, 1e-4)
    times = []
    with tempfile.TemporaryDirectory(dir=folder) as work:
        context = context_of(Path(work), frames, config, arguments, device)
        labels, normalise = label_frames(iapc.teacher, context), context.normalise
        with peak_memory(device) as peak:
            for number in range(arguments.steps):
                start = now(arguments, device)
                batch = sampler.batch(number).to(device)
                iapc.step(
                    normalise(batch.clean),
                    normalise(batch.augmented),
                    normalise(context.unscaled(batch)),
                    labels.crops(batch, context)[0],
                )
                times.append(now(arguments, device) - start)
    return row_of("iapc", "published", "", times[SKIPPED:], peak.bytes - before)


def now(arguments: Any, device: torch.device) -> float:
    """Seconds: of the wall, or of all processors that this process has used."""
    return time.process_time() if arguments.clock == "processor" else clock(device)


def context_of(
    folder: Path, frames: FrameSet, config: Any, arguments: Any, device: torch.device
) -> Context:
    """Surroundings of steps on whole frames, working in ``folder``."""
    width, height = parse_size("--size", arguments.size)
    return Context(
        frames=frames,
        normalise=Normalise(IMAGENET_INPUT).to(device),
        device=device,
        workdir=folder,
        config=config,
        crop_size=(height, width),
        losses=choose_kernel(config.loss_backend, device),
    )


def ours(
    folder: Path, frames: FrameSet, arguments: Any, device: torch.device, method: str, kernel: str
) -> list[dict[str, Any]]:
    """A row for each stage of the method; memory is that of the whole run."""
    before = memory_in_use(device)
    config = settings(method, kernel, arguments)
    stages = build_stages(config)
    training = config.training.model_copy(update={"steps": arguments.steps * len(stages)})
    config = config.model_copy(update={"training": training})
    for stage in stages:
        stage.share = 1
    model = network(arguments, device)
    to_memory_format(model, training)
    marks: dict[str, list[float]] = {}

    def report(progress: ProgressUpdate) -> None:
        marks.setdefault(progress.task, []).append(now(arguments, device))

    with tempfile.TemporaryDirectory(dir=folder) as work:
        context = context_of(Path(work), frames, config, arguments, device)
        context = replace(context, work=Work(events=Events(report=report)))
        options = RunOptions(Path(work), checkpoint_every_s=1e9)
        with peak_memory(device) as peak:
            Trainer(model, stages, context, options).run()
    rows = []
    for stage, at in marks.items():
        times = [b - a for a, b in itertools.pairwise(at)]
        rows.append(row_of(method, kernel, stage, times[SKIPPED - 1 :], peak.bytes - before))
    return rows


def network(arguments: Any, device: torch.device) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(arguments.network, CLASSES).to(device)


def settings(method: str, kernel: str, arguments: Any) -> Any:
    """Roadshift's settings for small data, with the batch asked for, nothing around the steps."""
    chosen = {
        "training.batch_size": arguments.batch,
        "training.crop_share": 1.0,
        "training.amp": arguments.amp,
        "tone": "none",
        "warm_start": "source",
        "final_bn": "false",
        "weight_interpolation": 1.0,
        "loss_backend": kernel,
    }
    if method == "iapc":  # what `PublishedIapc` computes, and nothing else
        code = {name: json.dumps(value) for name, value in AUTHORS_CODE.items()}
        weights = {"weight_ia": 0.2, "weight_pe": 0.5, "weight_ps": 0.04, "weight_im": 2.0}
        own = {**code, **weights, "crop_classes": 0}  # a whole frame has one place
        chosen |= {f"iapc.{name}": value for name, value in own.items()}
        chosen |= {"training.nesterov": "true", "training.classifier_lr_factor": 10.0}
        chosen |= {"training.lr": 1e-4}
    return resolve_config(method, assignments=[f"{key}={value}" for key, value in chosen.items()])


def row_of(method: str, kernel: str, stage: str, times: list[float], peak: int) -> dict[str, Any]:
    return {
        "method": method,
        "stage": stage,
        "kernel": kernel,
        "steps a second": 1 / statistics.median(times),
        "peak MiB": peak / 2**20,
        "steps": len(times),
    }


def table(document: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"{document['network']}, {document['size']}, batch {document['batch']}, 19 classes, "
        f"amp {document['amp']}, on {document['machine']}, {document['threads']} threads, "
        f"torch {document['versions'].get('torch')}, {document['date']}; medians of "
        f"{len(document['rows'][0]['steps a second, each'])} repeats, by {document['clock']} time. "
        "Memory is what a run adds: "
        "networks, activations, losses.",
        "",
        "| method | stage | losses | steps a second | of the published | peak memory | "
        "of the published |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        shares = [row.get(f"{key} of published") for key in ("steps a second", "peak MiB")]
        ratios = ["" if share is None else f"{share:.2f}" for share in shares]
        lines.append(
            f"| {row['method']} | {row['stage']} | {row['kernel']} | {row['steps a second']:.2f} | "
            f"{ratios[0]} | {row['peak MiB']:.0f} MiB | {ratios[1]} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
