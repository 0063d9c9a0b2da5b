"""CamVid, day to dusk: BN statistics, IAPC, Nightshift. Writes docs/results/camvid.md.

    python benchmarks/camvid.py --data DIR [--work DIR] [--seeds 3]

DIR holds ``day/{images,labels}`` and ``dusk/{images,labels}``; docs/results/camvid.md says where to
get CamVid and how to lay it out. Everything runs through the command line, as a user would; results
already in the work folder are kept, so an interrupted run goes on.

For each seed: a ``fast_scnn`` learns from the day frames (the last tenth of each sequence is kept
aside for the in-domain figure). Then two questions are asked of the dusk sequence:

- ``unseen``: adapt on the first half of the drive, measure on the second half; and, for what is
  left to gain, learn from the labels of the first half;
- ``same``: adapt on the whole drive without labels, measure on the same frames.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine_line import machine_line

LABELS = ("--label-space", "camvid11")
SIZE = ("--input-size", "480x360")
TRAIN_SETTINGS = (
    "training.steps=1500",
    "training.batch_size=4",
    "training.lr=3e-3",
    "training.crop_size=[320,240]",
    "supervised.class_balance=sqrt_inverse",
)
TRAIN = tuple(word for setting in TRAIN_SETTINGS for word in ("--set", setting))
METHODS = {
    "source only": None,
    "BN statistics": "bn_stats",
    "tone + BN statistics": "bn_stats tone",
    "IAPC": "iapc",
    "Nightshift": "nightshift",
}
SETTINGS = {"tone + BN statistics": ("--set", "tone=auto")}
FINE_TUNE = ("--set", "training.steps=300", "--set", "training.lr=1e-3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("camvid-work"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--page", type=Path, default=Path("docs/results/camvid.md"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    splits = make_splits(arguments.data, arguments.work / "frames")
    runs = [run_seed(seed, splits, arguments.work) for seed in range(arguments.seeds)]
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.with_suffix(".json").write_text(json.dumps(runs, indent=1) + "\n")
    arguments.page.write_text(render(runs))
    print(arguments.page.read_text())


# --- frames ---------------------------------------------------------------------------------------


def make_splits(data: Path, folder: Path) -> dict[str, Path]:
    """Folders of links: each split has ``images`` and ``labels``."""
    if not (data / "day/images").is_dir() or not (data / "dusk/images").is_dir():
        sys.exit(f"{data}: needs day/images, day/labels, dusk/images and dusk/labels.")
    day, dusk = names(data / "day"), names(data / "dusk")
    sequences: dict[str, list[str]] = {}
    for name in day:
        sequences.setdefault(name.split("_")[0], []).append(name)
    late = {name for frames in sequences.values() for name in frames[-len(frames) // 10 :]}
    half = len(dusk) // 2
    members = {
        "day_train": ("day", [name for name in day if name not in late]),
        "day_held": ("day", sorted(late)),
        "dusk_all": ("dusk", dusk),
        "dusk_first": ("dusk", dusk[:half]),
        "dusk_second": ("dusk", dusk[half:]),
    }
    shutil.rmtree(folder, ignore_errors=True)
    for split, (domain, chosen) in members.items():
        for kind, suffix in (("images", ".jpg"), ("labels", ".png")):
            (folder / split / kind).mkdir(parents=True)
            for name in chosen:
                source = (data / domain / kind / name).with_suffix(suffix).resolve()
                (folder / split / kind / source.name).symlink_to(source)
    return {split: folder / split for split in members}


def names(domain: Path) -> list[str]:
    """Frame names in time order."""

    def key(path: Path) -> list[str | int]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]

    return [path.stem for path in sorted((domain / "images").glob("*.jpg"), key=key)]


# --- commands -------------------------------------------------------------------------------------


def roadshift(*words: object) -> dict[str, Any]:
    """One command with ``--json``; its document."""
    command = [sys.executable, "-m", "roadshift.cli", *map(str, words), "--json"]
    print("+ roadshift", *words, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"roadshift {words[0]} failed")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def made(out: Path, *words: object) -> None:
    """Run a command that makes the bundle ``out``, unless it is there."""
    if not (out / "manifest.json").exists():
        roadshift(*words, "--out", out, "--overwrite")


def measured(bundle: Path, split: Path, *words: object) -> dict[str, Any]:
    """`roadshift eval`, kept beside the bundle."""
    kept = bundle.with_name(f"{bundle.name}.{split.name}.json")
    if not kept.exists():
        record = roadshift(
            "eval", bundle, "--images", split / "images", "--labels", split / "labels", *words
        )
        kept.write_text(json.dumps(record))
    record = json.loads(kept.read_text())
    assert isinstance(record, dict)
    return record


def train(out: Path, split: Path, seed: int, *words: object) -> None:
    """A model from the labelled frames of ``split``; ``words`` come last, so they win."""
    images, labels = split / "images", split / "labels"
    made(
        out,
        "train",
        "--images",
        images,
        "--labels",
        labels,
        *LABELS,
        "--network",
        "fast_scnn",
        *SIZE,
        *TRAIN,
        "--seed",
        seed,
        *words,
    )


def run_seed(seed: int, splits: dict[str, Path], work: Path) -> dict[str, Any]:
    """Every measurement of one seed."""
    source = work / f"source-{seed}"
    train(source, splits["day_train"], seed)
    result: dict[str, Any] = {"seed": seed}
    result["in domain"] = measured(source, splits["day_held"])
    for question, adapt_on, measure_on in (
        ("unseen", "dusk_first", "dusk_second"),
        ("same", "dusk_all", "dusk_all"),
    ):
        result[question] = ask(source, splits[adapt_on], splits[measure_on], seed)
    start = source.with_name(f"{source.name}-dusk_first-bn_stats")
    labelled = source.with_name(f"{source.name}-dusk_first-labels")
    train(labelled, splits["dusk_first"], seed, "--init", start / "model.safetensors", *FINE_TUNE)
    result["unseen"]["with labels"] = measured(labelled, splits["dusk_second"])
    return result


def ask(source: Path, adapt_on: Path, measure_on: Path, seed: int) -> dict[str, Any]:
    """Each method from ``source`` on the frames of one split, measured on another."""
    rows: dict[str, Any] = {}
    for title, method in METHODS.items():
        if method is None:
            rows[title] = measured(source, measure_on)
            continue
        out = source.with_name(f"{source.name}-{adapt_on.name}-{method.replace(' ', '-')}")
        words = ("--method", method.split()[0], "--seed", seed, "--gate", "off")
        made(out, "adapt", source, adapt_on / "images", *words, *SETTINGS.get(title, ()))
        rows[title] = measured(out, measure_on)
    return rows


# --- page -----------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation where there are several."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def table(runs: Sequence[dict[str, Any]], question: str) -> str:
    """Mean and deviation over the seeds: mIoU, each class, and the gains seed by seed."""
    asked = [run[question] for run in runs if question in run]
    titles = list(asked[0])
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]

    def row(name: str, cells: Sequence[str]) -> None:
        lines.append(f"| {name} | " + " | ".join(cells) + " |")

    row("**mIoU**", [f"**{spread([a[t]['miou'] for a in asked])}**" for t in titles])
    for base in titles[:2]:
        gains = [spread([a[t]["miou"] - a[base]["miou"] for a in asked]) for t in titles]
        row(f"over {base}", gains)
    for name in asked[0][titles[0]]["iou"]:
        row(name, [spread([a[t]["iou"][name] or 0.0 for a in asked]) for t in titles])
    return "\n".join(lines)


def gains(runs: Sequence[dict[str, Any]], question: str, title: str) -> str:
    """Gains of a column over BN statistics, from the least to the most of all seeds."""
    found = sorted(
        run[question][title]["miou"] - run[question]["BN statistics"]["miou"]
        for run in runs
        if title in run[question]
    )
    return f"{found[0]:.1f} to {found[-1]:.1f}" if found else ""


def lost_classes(runs: Sequence[dict[str, Any]], question: str) -> str:
    """Classes that BN statistics keep (IoU of at least 1) and a method does not, seed by seed."""
    lost = [
        f"{name} ({method}, seed {run['seed']})"
        for run in runs
        if question in run
        for name, value in run[question]["BN statistics"]["iou"].items()
        for method in ("IAPC", "Nightshift")
        if (value or 0) >= 1 and (run[question][method]["iou"][name] or 0) < 1
    ]
    return ", ".join(lost) or "none"


def render(runs: Sequence[dict[str, Any]]) -> str:
    """The page, with its hand-written paragraphs from ``camvid_page.md`` beside it."""
    template = Path(__file__).with_name("camvid_page.md").read_text()
    values = {
        "machine": machine_line(),
        "seeds": str(len(runs)),
        "in_domain": spread([run["in domain"]["miou"] for run in runs]),
        "unseen": table(runs, "unseen"),
        "same": table(runs, "same"),
        "lost_unseen": lost_classes(runs, "unseen"),
        "lost_same": lost_classes(runs, "same"),
        "fine_tune": " ".join(FINE_TUNE),
        "train_options": " ".join(TRAIN).replace("[", "'[").replace("]", "]'"),
    }
    for short, title in (
        ("tone", "tone + BN statistics"),
        ("iapc", "IAPC"),
        ("nightshift", "Nightshift"),
        ("labels", "with labels"),
    ):
        for question in ("same", "unseen"):
            values[f"{short}_{question}"] = gains(runs, question, title)
    for name, value in values.items():
        template = template.replace("{{" + name + "}}", value)
    return template


if __name__ == "__main__":
    main()
