"""Measurements and choice of ``training.amp=auto`` for every network on this machine.

    python benchmarks/precision.py [--networks all] [--methods nightshift,iapc] [--size 256x128]
                                   [--batch 2] [--learn 60] [--device cuda] [--out ...]

Every network first learns the labels of built-in daylight scenes for some steps in float32, since
the gradients of random weights differ in any precision. A run on dusk scenes is then begun as
`roadshift adapt` begins it, and stopped after its choice. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import torch
from machine_line import machine_line
from roadshift.adapt.data.context import Context
from roadshift.adapt.data.dataset import labelled_frames, target_frames
from roadshift.adapt.data.frame_set import FrameSet
from roadshift.adapt.losses.backends.choice import choose_kernel
from roadshift.adapt.methods import build_stages, resolve_config
from roadshift.adapt.models.inputs import Normalise
from roadshift.adapt.models.loading import IMAGENET_INPUT, device_name
from roadshift.adapt.networks import NETWORKS, SegmentationNetwork, build_network
from roadshift.adapt.run.events import QUIET, Events
from roadshift.adapt.run.options import RunOptions
from roadshift.adapt.run.work import Work
from roadshift.adapt.training.compiling import to_memory_format
from roadshift.adapt.training.precision_benchmark import MEASURED_FROM
from roadshift.adapt.training.trainer import Trainer
from roadshift.commands.parse import parse_size
from roadshift.runtime.arguments import ProgressUpdate
from roadshift.runtime.bundle import library_versions
from roadshift.runtime.errors import RunInterrupted
from roadshift.runtime.folders.label_pairs import labelled_pairs
from roadshift.runtime.labels import label_space
from roadshift.scenes import render_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", default="all", help="all, or names with commas")
    parser.add_argument("--methods", default="nightshift,iapc")
    parser.add_argument("--size", default="256x128")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--learn", type=int, default=60, help="steps from random weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    names = list(NETWORKS) if arguments.networks == "all" else arguments.networks.split(",")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for row in measure(Path(folder) / name, name, arguments, device):
                rows.append(row)
                print(json.dumps(row), flush=True)
    document = {
        "device": device_name(device),
        "machine": machine_line(),
        "capability": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability(),
        "date": date.today().isoformat(),
        "versions": library_versions(),
        "size": arguments.size,
        "batch": arguments.batch,
        "learn": arguments.learn,
        "rows": rows,
    }
    out = arguments.out or Path(f"benchmarks/results/precision-{device.type}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(document))
    print(table(document))


def measure(folder: Path, name: str, arguments: Any, device: torch.device) -> list[dict[str, Any]]:
    """A row for each method."""
    width, height = parse_size("--size", arguments.size)
    folder.mkdir()
    for domain, count, seed in (("daylight", 24, 2), ("dusk", 8, 1)):
        render_dataset(folder / domain, domain, count, seed=seed, width=width, height=height)
    day, space = folder / "daylight", label_space("cityscapes19")
    pairs = labelled_pairs(day / "images", day / "labels")
    dusk = target_frames([str(folder / "dusk/images")], width, height, folder)
    torch.manual_seed(0)
    model = build_network(name, space.num_classes).to(device)
    learnt = [f"training.steps={arguments.learn}", "training.amp=off", "training.lr=0.01"]
    begin(
        folder / "train",
        model,
        labelled_frames(pairs, space, width, height),
        "supervised",
        [*learnt, "final_bn=false"],
        arguments,
        device,
    ).run()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    rows = []
    for method in arguments.methods.split(","):
        model.load_state_dict(weights)
        steps: list[ProgressUpdate] = []
        trainer = begin(
            folder / method,
            model,
            dusk,
            method,
            [f"training.steps={MEASURED_FROM}"],
            arguments,
            device,
            Events(report=steps.append, stop_requested=lambda steps=steps: bool(steps)),
        )
        with suppress(RunInterrupted):
            trainer.run()
        rows.append(
            {
                "network": name,
                "method": method,
                "chosen": trainer.precision.name,
                "measured": trainer.state.precision_measured,
            }
        )
    return rows


def begin(
    folder: Path,
    model: SegmentationNetwork,
    frames: FrameSet,
    method: str,
    assignments: list[str],
    arguments: Any,
    device: torch.device,
    events: Events = QUIET,
) -> Trainer:
    """The trainer of a run on whole frames."""
    common = [f"training.batch_size={arguments.batch}", "training.crop_share=1.0", "tone=none"]
    config = resolve_config(method, assignments=[*common, *assignments])
    to_memory_format(model, config.training)
    folder.mkdir()
    context = Context(
        frames=frames,
        normalise=Normalise(IMAGENET_INPUT).to(device),
        device=device,
        workdir=folder,
        config=config,
        crop_size=(frames.height, frames.width),
        losses=choose_kernel(config.loss_backend, device),
        work=Work(events=events),
    )
    return Trainer(model, build_stages(config), context, RunOptions(folder))


def table(document: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"{document['size']}, micro-batches of {document['batch']}, 19 classes, after "
        f"{document['learn']} steps on labels, on {document['machine']}, {document['capability']}, "
        f"torch {document['versions'].get('torch')}, {document['date']}.",
        "",
        "| network | method | precision | rate, of float32's | cosine of the gradients | chosen |",
        "|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        measured = row["measured"] or {}
        base = measured.get("fp32", {}).get("seconds")
        others = [name for name in measured if name != "fp32"]
        if not others:
            lines.append(f"| {row['network']} | {row['method']} | | | | {row['chosen']} |")
        for name in others:
            seconds, cosine = (measured[name][key] for key in ("seconds", "gradient_cosine"))
            rate = "no room" if base is None or seconds is None else f"{base / seconds:.2f}"
            agreed = "not finite" if cosine is None else f"{cosine:.4f}"
            lines.append(
                f"| {row['network']} | {row['method']} | {name} | {rate} | {agreed} | "
                f"{row['chosen']} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
