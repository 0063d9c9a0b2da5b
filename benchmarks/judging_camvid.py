"""Candidates from CamVid's day to its dusk, and to another daylight route, for `judging.py`.

    python benchmarks/judging_camvid.py --camvid DIR --work DIR [--seeds 3]

DIR as for ``camvid.py``. Source models learn from the first half of the daylight drive 0016E5;
``dusk`` is the drive 0001TP, ``route`` the other daylight drive, 0006R0. Each candidate adapts on
the even frames of a drive and is measured on the odd ones; the judge sees the end of the even ones,
which adaptation does not see. What is in the work folder already is kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import camvid
import torch
from judging_pairs import COLD, PUBLISHED_IAPC, QUICK, Way, adapted, measured_on, trained

WIDTH, HEIGHT = 320, 240
TRAIN = (
    "training.steps=500",
    "training.lr=4e-3",
    "training.crop_size=[224,160]",
    "training.amp=off",
    "supervised.class_balance=sqrt_inverse",
)
WAYS: dict[str, Way] = {
    "bn_stats": Way("bn_stats"),
    "nightshift": Way("nightshift", ("training.steps=60", *QUICK)),
    # The collapses of issue and paper: the published entropy weight without a warm start, LD's
    # first thresholds from a broken model, and plain entropy minimisation run long.
    "iapc-published": Way(
        "iapc", (*PUBLISHED_IAPC, "training.steps=80", "training.lr=1e-3", *QUICK, *COLD)
    ),
    "ld-broken": Way("ld", ("training.steps=80", "training.lr=1e-3", *QUICK, *COLD)),
    "entmin-long": Way("entmin", ("training.steps=80", "training.lr=5e-3", *QUICK, *COLD)),
}
DRIVES = ("dusk", "route")


def splits(data: Path, folder: Path) -> dict[str, Path]:
    """Folders of links: ``train``, and of each drive ``adapt`` and ``measure``."""
    day, dusk = camvid.names(data / "day"), camvid.names(data / "dusk")
    long = [name for name in day if name.startswith("0016E5")]
    route = [name for name in day if name.startswith("0006R0")]
    members = {
        "train": ("day", long),
        "dusk-adapt": ("dusk", dusk[::2]),
        "dusk-measure": ("dusk", dusk[1::2]),
        "route-adapt": ("day", route[::2]),
        "route-measure": ("day", route[1::2]),
    }
    for split, (domain, chosen) in members.items():
        for kind, suffix in (("images", ".jpg"), ("labels", ".png")):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
            for number, name in enumerate(chosen):
                source = (data / domain / kind / name).with_suffix(suffix).resolve()
                link = folder / split / kind / f"{number:04d}{suffix}"
                if not link.exists():
                    link.symlink_to(source)
    return {split: folder / split for split in members}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work: Path = arguments.work
    (work / "candidates").mkdir(parents=True, exist_ok=True)
    folders = splits(arguments.camvid, work / "frames")
    for seed in range(arguments.seeds):
        out = work / f"source-{seed}"
        source = trained(out, folders["train"], "camvid11", (WIDTH, HEIGHT), TRAIN, seed)
        for drive in DRIVES:
            measure, target = folders[f"{drive}-measure"], folders[f"{drive}-adapt"]
            kept = work / f"measured/{drive}-{seed}"
            line = [f"{measured_on(kept, source, measure)['miou']:.1f}"]
            ways = WAYS if drive == "dusk" else ("bn_stats", "nightshift")
            for name in ways:
                out = work / f"candidates/{drive}-{seed}-{name}"
                bundle = adapted(source, target, WAYS[name], seed, out)
                miou = None if bundle is None else measured_on(kept, bundle, measure)["miou"]
                line.append(f"{name} {miou}")
            print(seed, drive, *line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
