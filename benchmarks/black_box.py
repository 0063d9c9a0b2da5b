"""A student of another architecture that sees only the source model's answers. Writes
docs/results/black-box.md.

    python benchmarks/black_box.py [--work DIR] [--seeds 3]

The source model, a ``fast_scnn`` trained on built-in daylight scenes, is exported to ONNX and
answers to frames of night and fog. The student is ``small_unet:build`` of this folder, with random
weights. Both are measured on frames that adaptation did not see. What is done already in the work
folder is kept.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import camvid
import methods

PAGE = Path("docs/results/black-box.md")
STUDENT = "small_unet:build"
RUNS = {
    "distillation alone": ("atp_black_box", ("--set", "atp_black_box.stages=[]")),
    "atp_black_box": ("atp_black_box", ()),
    "das3_black_box": ("das3_black_box", ()),
}

INTRODUCTION = """\
The source model (`fast_scnn`, trained on 240 built-in daylight scenes of 320x160) is an ONNX file
that answers with probabilities; no weight and no gradient of it is used. The student
(`benchmarks/small_unet.py`, 0.8 M parameters, random weights) sees 64 frames of night and fog and
the answers to them. mIoU in percent on 40 other frames of night and fog, mean ± standard deviation
over {seeds} seeds, two CPU cores (Intel Xeon, 2.5 GHz), float32. Printed by
`python benchmarks/black_box.py`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path("methods-work"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    # The command line looks for the student in the folder that it is started in.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    scenes = methods.render_scenes(arguments.work / "scenes/frames")
    runs = [run_seed(seed, scenes, arguments.work) for seed in range(arguments.seeds)]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render(runs))
    print(PAGE.read_text())


def run_seed(seed: int, scenes: dict[str, Path], work: Path) -> dict[str, Any]:
    """mIoU of the source model and of each student on the held-out frames."""
    source = work / f"scenes/source-{seed}"
    methods.train_on_scenes(source, scenes["day_train"], seed)
    if not (source / "model.onnx").exists():
        frames = ("--frames", scenes["day_held"] / "images")
        camvid.roadshift("export", source, "--to", "onnx", "--logits", *frames)
    results = {"source model": camvid.measured(source, scenes["heldout"])["miou"]}
    for title, (method, settings) in RUNS.items():
        out = work / f"scenes/source-{seed}-{title.replace(' ', '-')}"
        camvid.made(
            out,
            "adapt",
            source,
            scenes["target"] / "images",
            "--method",
            method,
            "--student",
            STUDENT,
            "--seed",
            seed,
            *settings,
        )
        results[title] = camvid.measured(out, scenes["heldout"])["miou"]
    return results


def render(runs: Sequence[dict[str, Any]]) -> str:
    """The page."""
    lines = [
        "# A black box and another network",
        "",
        INTRODUCTION.format(seeds=len(runs)),
        "",
        "| | mIoU | over the source model |",
        "|---|---|---|",
    ]
    for title in runs[0]:
        values = [run[title] for run in runs]
        gains = [run[title] - run["source model"] for run in runs]
        lines.append(f"| {title} | {methods.spread(values)} | {methods.spread(gains, sign=True)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
