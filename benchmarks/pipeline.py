"""Time of a frame, stage by stage. Writes docs/results/pipeline.md.

    python benchmarks/pipeline.py [--size 1024x512] [--queries 300]

A `fast_scnn` with random weights (its time does not depend on them) is exported to ONNX at the
size given and timed by `roadshift bench` on frames of that size, and once on frames of twice the
size, which have to be shrunk first.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from machine_line import machine_line
from random_bundle import random_bundle
from roadshift.commands.parse import parse_size
from roadshift.export.artefacts import export_bundle
from roadshift.export.judge import Floors
from roadshift.runtime.bench import BenchSettings, bench_bundle
from roadshift.runtime.bundle import library_versions
from roadshift.scenes import render_dataset

PAGE = Path("docs/results/pipeline.md")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="1024x512")
    parser.add_argument("--queries", type=int, default=300)
    arguments = parser.parse_args()
    width, height = parse_size("--size", arguments.size)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), width, height, arguments.queries)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render(rows, f"{width}x{height}", arguments.queries))
    print(PAGE.read_text())


def measure(folder: Path, width: int, height: int, queries: int) -> list[dict[str, Any]]:
    """Rows of `bench_bundle`, for frames of the input size and of twice the size."""
    bundle = random_bundle(folder / "bundle", "fast_scnn", width, height)
    export_bundle(bundle, ("onnx",), argmax="graph", floors=Floors(99.0))
    rows = []
    for scale in (1, 2):
        frames = folder / f"frames{scale}"
        render_dataset(frames, "daylight", 16, seed=1, width=scale * width, height=scale * height)
        size = f"{scale * width}x{scale * height}"
        settings = BenchSettings(frames=frames / "images", queries=queries, device="cpu")
        measured = bench_bundle(bundle.path, settings)
        rows += [{**row, "frames": size} for row in measured if row["error"] is None]
    return rows


def render(rows: list[dict[str, Any]], size: str, queries: int) -> str:
    """The page: shares and ratios, since absolute times of a shared CPU say little."""
    versions = library_versions()
    machine = f"torch {versions.get('torch')}, onnxruntime {versions.get('onnxruntime')}"
    reference = {row["frames"]: row["p50_ms"] for row in rows if row["backend"] == "torch"}
    lines = [
        "# Where a frame's time goes",
        "",
        f"`fast_scnn` at {size}, {queries} frames one after the other, {machine_line()}, "
        f"{machine}. Printed by `python benchmarks/pipeline.py`. Outside the engine is "
        "fitting the frame to the engine's input and the labels to the frame; ratios are of p50, "
        "in one run. Reading a frame (a PNG of textures, far heavier than a video's frame) is no "
        "part of a query: `roadshift run` does it in a thread of its own while the engine works.",
        "",
        "| frames | backend | outside the engine | reading a frame over the engine "
        "| p50 over torch eager's | p99 over p50 |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['frames']} | {row['backend']} | {row['outside_engine_percent']:.2f} % | "
        f"{row['stages_ms']['decode'] / row['stages_ms']['infer']:.2f} | "
        f"{row['p50_ms'] / reference[row['frames']]:.2f} | {row['p99_ms'] / row['p50_ms']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
