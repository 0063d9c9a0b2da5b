"""Published checkpoints on real roads: statistics mixed or replaced, and the default recipe.

    python benchmarks/real.py --data DIR --camvid DIR [--work DIR] [--espnet Model.py]
                              [--networks espnetv2-2.0] [--roads dusk,kitti] [--ways source,mixed]
                              [--seeds 0,1,2]

Writes docs/results/real.md, which says where checkpoints and frames come from and how to lay them
out. Everything runs through the command line, as a user would: import, adapt with the gate on, eval
in the road's own classes. What is in the work folder is kept, so that an interrupted run goes on;
rows that have not been measured are left out of the page. All of it takes about a day on two cores,
the ways without a step two hours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine_line import machine_line

PAGE = Path("docs/results/real.md")
TEMPLATE = Path(__file__).with_name("real_page.md")
FEW = ("--max-frames", "62")  # of IDD-Lite's 281


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint and how it is imported."""

    file: str
    options: tuple[str, ...]
    module: str = ""  # of a user's own, to be allowed
    size: str = "512x256"


@dataclass(frozen=True)
class Road:
    """Frames to adapt to, and labelled ones to measure on: the same unless ``adapt`` says other."""

    folder: str
    space: str
    adapt: str = "images"
    camvid: bool = False


NETWORKS = {
    "espnetv2-2.0": Checkpoint(
        "espnetv2_s_2.0_city_512x256.pth", ("--network", "espnetv2", "--argument", "scale=2.0")
    ),
    "espnetv2-0.5": Checkpoint(
        "espnetv2_s_0.5_city_1024x512.pth", ("--network", "espnetv2", "--argument", "scale=0.5")
    ),
    "espnetv2-2.0-768x384": Checkpoint(  # learnt at 1024x512
        "espnetv2_s_2.0_city_1024x512.pth",
        ("--network", "espnetv2", "--argument", "scale=2.0"),
        size="768x384",
    ),
    "espnet": Checkpoint(
        "espnet_p_2_q_8.pth",
        (
            *("--network", "{module}:ESPNet", "--argument", "p=2", "--argument", "q=8"),
            *("--colour", "bgr", "--mean", "72.3923111,82.90893555,73.15840149"),
            *("--std", "11556.4014825,11768.989350,11453.282165"),
        ),
        "Model",
    ),
}
ROADS = {
    "dusk": Road("dusk", "camvid11", camvid=True),
    "day": Road("day", "camvid11", camvid=True),
    "kitti": Road("kitti", "cityscapes19"),
    "idd": Road("idd", "idd7", adapt="adapt"),
    "bdd": Road("bdd", "cityscapes19"),
    "fog": Road("acdc/fog", "cityscapes19"),
    "snow": Road("acdc/snow", "cityscapes19"),
    "normal": Road("acdc/normal", "cityscapes19"),
    "cityscapes": Road("cityscapes", "cityscapes19"),
}
WAYS: dict[str, tuple[str, ...] | None] = {  # options of adapt; None: the source as it is
    "source": None,
    "mixed": ("--method", "bn_stats"),
    "replaced": ("--method", "bn_stats", "--set", "bn_stats.variant=paper"),
    "default": (),
    "longer": ("--time-budget", "25m"),
    "ungated": ("--time-budget", "25m"),  # sets no frames aside to judge on
    "iapc": ("--method", "iapc"),
    "ld": ("--method", "ld"),
    "atp": ("--method", "atp"),
    "das3": ("--method", "das3"),
    "tent": ("--method", "tent"),
    "entmin": ("--method", "entmin"),
    "pseudo_selected": ("--method", "pseudo_selected"),
}
TITLES = {
    "source": "source only",
    "mixed": "mixed statistics",
    "replaced": "replaced statistics",
    "default": "default recipe",
    "longer": "in 25 minutes",
    "ungated": "without the gate",
}
PUBLISHED = ("source", "mixed", "replaced", "default")  # unless --ways says more
UNSEEDED = ("source", "mixed", "replaced")  # take no step, and so are measured once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("real-work"))
    parser.add_argument("--espnet", type=Path, help="test/Model.py of sacmehta/ESPNet.")
    parser.add_argument("--networks", default="espnetv2-2.0,espnetv2-0.5")
    parser.add_argument("--roads", default=",".join(ROADS))
    parser.add_argument("--ways", default=",".join(PUBLISHED))
    parser.add_argument("--seeds", default="0", help="Of ways that take steps.")
    parser.add_argument("--gate", default="refuse", help="off: quicker, without verdicts.")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for way in arguments.ways.split(","):  # the quick ones first, everywhere
        for seed in (0,) if way in UNSEEDED else map(int, arguments.seeds.split(",")):
            for network in arguments.networks.split(","):
                for road in arguments.roads.split(","):
                    measure(arguments, network, road, way, seed)
    rows = read_rows(arguments.work)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(render(rows))
    print(PAGE.read_text())


# --- measuring ------------------------------------------------------------------------------------


def roadshift(*words: object, module: Path | None = None) -> dict[str, Any]:
    """One command with ``--json``; its document. A verdict's exit code is no failure."""
    command = [sys.executable, "-m", "roadshift.cli", *map(str, words), "--json"]
    print("+ roadshift", *words, flush=True)
    path = os.pathsep.join(filter(None, [str(module or ""), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, check=False
    )
    if done.returncode not in (0, 5, 6):
        sys.exit(f"roadshift {words[0]} failed with {done.returncode}; run it by hand")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def measure(arguments: argparse.Namespace, name: str, road_name: str, way: str, seed: int) -> None:
    """One cell of the table, into a file of its own, unless it is there."""
    stem = f"{name}.{road_name}.{way}" + (f".seed{seed}" if seed else "")
    kept: Path = arguments.work / f"{stem}.json"
    network, road = NETWORKS[name], ROADS[road_name]
    if kept.exists() or (network.module and arguments.espnet is None):
        return
    module = arguments.espnet.parent if network.module else None
    allow = ("--allow-network", network.module) if network.module else ()
    source = arguments.work / name
    if not (source / "manifest.json").exists():
        options = (word.format(module=network.module) for word in network.options)
        file = arguments.data / "checkpoints" / network.file
        words = ("import", file, *options, "--input-size", network.size)
        roadshift(*words, "--label-space", "cityscapes20", "--out", source, module=module)
    folder = (arguments.camvid if road.camvid else arguments.data) / road.folder
    bundle, found = source, {}
    if WAYS[way] is not None:
        bundle = arguments.work / stem
        mode = "off" if way == "ungated" else arguments.gate
        gate = ("--gate", mode, "--out", bundle, "--overwrite")
        options = (*WAYS[way], *FEW, *allow, *gate, "--seed", str(seed))
        said = roadshift("adapt", source, folder / road.adapt, *options, module=module)
        outcome, verdict = said["outcome"], said.get("verdict") or {}
        found = {
            "seed": seed,
            "share": outcome.get("statistics_share"),
            "seconds": outcome["seconds"],
            "steps": outcome["steps"],
            "threads": outcome["threads"],
            "verdict": verdict.get("decision"),
            "sentence": verdict.get("sentence"),
        }
    pair = ("--images", folder / "images", "--labels", folder / "labels")
    record = roadshift("eval", bundle, *pair, "--label-space", road.space, *allow, module=module)
    cell = {"network": name, "road": road_name, "way": way, **found}
    cell |= {key: record[key] for key in ("miou", "pixel_accuracy", "frames", "iou")}
    kept.write_text(json.dumps(cell) + "\n")


def read_rows(work: Path) -> list[dict[str, Any]]:
    """Every cell that has been measured, those of `real_oracle.py` among them."""
    return [json.loads(path.read_text()) for path in sorted(work.glob("*.*.*.json"))]


# --- the page -------------------------------------------------------------------------------------

Cells = Mapping[tuple[str, str, str], Mapping[str, Any]]


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = cells_of(rows)
    parts = {
        "{machine}": machine_line(),
        "{tables}": "\n\n".join(table(cells, name) for name in NETWORKS if known(cells, name)),
        "{means}": "\n".join(mean_lines(cells)),
        "{oracle}": "\n".join(oracle_lines(cells)) or "| - | - | - | - | - | - |",
        "{losers}": "; ".join(losers(cells)) or "none",
        "{verdicts}": "\n".join(verdict_lines(cells))
        or "| - | - | - | - | - | - | not measured yet |",
    }
    page = TEMPLATE.read_text()
    for mark, text in parts.items():
        page = page.replace(mark, text)
    return page


def cells_of(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """A cell a network, road and way: the mean mIoU of its seeds, whose rows are ``runs``."""
    cells: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        cell = cells.setdefault((row["network"], row["road"], row["way"]), {**row, "runs": []})
        cell["runs"].append(row)
        cell["miou"] = statistics.mean(run["miou"] for run in cell["runs"])
    return cells


def known(cells: Cells, network: str) -> bool:
    return any(key[0] == network for key in cells)


def table(cells: Cells, network: str) -> str:
    """Roads down, ways across: mIoU, and the share in brackets."""
    ways = [way for way in WAYS if any((network, road, way) in cells for road in ROADS)]
    lines = [
        f"**{network}**",
        "",
        f"| mIoU, percent | frames | {' | '.join(TITLES.get(way, way) for way in ways)} |",
        "|---" * (len(ways) + 2) + "|",
    ]
    for road in ROADS:
        row = [cells.get((network, road, way)) for way in ways]
        if any(row):
            frames = next(cell["frames"] for cell in row if cell)
            lines.append(f"| {road} | {frames} | {' | '.join(map(shown, row))} |")
    return "\n".join(lines)


def shown(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "-"
    share = cell.get("share")
    mixed = cell["way"] == "mixed" and share is not None
    each = [run["miou"] for run in cell["runs"]]
    spread = f" ± {statistics.stdev(each):.1f} of {len(each)}" if len(each) > 1 else ""
    return f"{cell['miou']:.1f}{spread}" + (f" ({share:g})" if mixed else "")


def mean_lines(cells: Cells) -> list[str]:
    """Mean and worst change against source only over all roads but the source's own."""
    lines = []
    for network in NETWORKS:
        for way in WAYS:
            gains, gated = {}, {}
            for road in ROADS:
                before, cell = cells.get((network, road, "source")), cells.get((network, road, way))
                if road == "cityscapes" or before is None or cell is None:
                    continue
                gains[road] = cell["miou"] - before["miou"]
                kept_out = [run.get("verdict") != "promote" for run in cell["runs"]]
                each = [run["miou"] - before["miou"] for run in cell["runs"]]
                pairs = zip(each, kept_out, strict=True)
                gated[road] = statistics.mean(0.0 if out else gain for gain, out in pairs)
            if way == "source" or not gains:
                continue
            title = TITLES.get(way, way)
            lines.append(mean_line(network, title, gains))
            if way in ("default", "longer"):
                lines.append(mean_line(network, f"{title}, where the gate promotes it", gated))
    return lines


def mean_line(network: str, title: str, gains: Mapping[str, float]) -> str:
    worst = min(gains, key=lambda road: gains[road])
    mean = statistics.mean(gains.values())
    return f"| {network} | {title} | {len(gains)} | {mean:+.1f} | {gains[worst]:+.1f} ({worst}) |"


def oracle_lines(cells: Cells) -> list[str]:
    """Headroom: learning with the labels of every other frame."""
    lines = []
    for (network, road, way), cell in cells.items():
        if way == "oracle":
            figures = " | ".join(f"{cell[key]:.1f}" for key in ("source", "mixed", "miou"))
            lines.append(f"| {network} | {road} | {cell['frames']} | {figures} |")
    return lines


def losers(cells: Cells) -> list[str]:
    """Promoted candidates that are worse than the source by more than a point, by name."""
    found = []
    for (network, road, way), cell in cells.items():
        before = cells.get((network, road, "source"))
        for run in cell["runs"] if before else ():
            change = run["miou"] - before["miou"]
            if run.get("verdict") == "promote" and change < -1:
                found.append(f"{network}, {road}, {TITLES.get(way, way)} ({change:+.1f})")
    return found


def verdict_lines(cells: Cells) -> list[str]:
    """Each verdict beside the truth."""
    lines = []
    for (network, road, way), cell in cells.items():
        before = cells.get((network, road, "source"))
        for run in cell["runs"] if before else ():
            if run.get("verdict") is None:
                continue
            change = f"{run['miou'] - before['miou']:+.1f} | {run['verdict']}"
            took = f"{run.get('seed', 0)} | {run['steps']} in {run['seconds']:.0f} s"
            lines.append(f"| {network} | {road} | {TITLES.get(way, way)} | {took} | {change} |")
    return lines


if __name__ == "__main__":
    main()
