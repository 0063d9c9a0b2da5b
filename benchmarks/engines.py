"""Every way to run a network, in turns, on one machine: `roadshift bench --backends all`.

    python benchmarks/engines.py [--device cpu|cuda] [--networks fast_scnn ...] [--sizes 1024x512]
                                 [--precisions fp32] [--queries 1024] [--rounds 8]
                                 [--duration S] [--out benchmarks/results/engines-cpu]

Networks have random weights (their time does not depend on them); frames are built-in scenes of
the network's size, in memory. Each network is exported in each precision, with labels from the
graph or from logits, whichever `export` finds faster here. On a CPU the page gives
ratios within the run, since the absolute times of a shared CPU say little; on a GPU milliseconds
as well. Writes OUT.json, the rows of `bench`, and OUT.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import roadshift.adapt  # noqa: F401 - makes torch's backends known
from machine_line import machine_line
from random_bundle import random_bundle
from roadshift.adapt.networks import NETWORKS
from roadshift.commands.parse import parse_size
from roadshift.export.artefacts import export_bundle
from roadshift.export.judge import Floors
from roadshift.runtime.bench import BenchSettings, bench_bundle
from roadshift.runtime.bench.baseline import machine
from roadshift.runtime.bundle import library_versions
from roadshift.runtime.probes.machine_state import ENERGY_SECONDS, NOISY_SHARE
from roadshift.scenes import render_dataset

FRAMES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS))
    parser.add_argument("--sizes", nargs="+")
    parser.add_argument("--precisions", help="of the exports, with commas")
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument(
        "--duration", type=float, help="seconds of a row, at least; by default enough for energy"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cuda = arguments.device == "cuda"
    networks = arguments.networks or (list(NETWORKS) if cuda else ["fast_scnn"])
    sizes = arguments.sizes or (["1024x512", "2048x1024"] if cuda else ["1024x512"])
    precisions = arguments.precisions or ("fp32,fp16" if cuda else "fp32")
    # a counter of energy says something from ENERGY_SECONDS a round on, and CPUs here have none
    enough = 1.2 * ENERGY_SECONDS * arguments.rounds if cuda else None
    settings = {
        "queries": arguments.queries,
        "rounds": arguments.rounds,
        "duration_s": arguments.duration or enough,
    }
    rows = []
    for network in networks:
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(Path(folder), network, size, precisions, arguments.device, settings)
            rows += [{"network": network, "size": size, **row} for row in found]
    document = {
        "machine": machine(),
        "versions": library_versions(),
        "date": date.today().isoformat(),
        "rows": rows,
    }
    out = arguments.out or Path(f"benchmarks/results/engines-{arguments.device}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    out.with_suffix(".md").write_text(render(document, cuda))
    print(out.with_suffix(".md").read_text())


def measure(
    folder: Path, network: str, size: str, precisions: str, device: str, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rows of `bench_bundle` for one network, exported here."""
    width, height = parse_size("--sizes", size)
    bundle = random_bundle(folder / "bundle", network, width, height)
    export_bundle(
        bundle, ("onnx",), precisions=precisions.split(","), floors=Floors(min_agreement=95.0)
    )
    render_dataset(folder / "frames", "daylight", FRAMES, seed=1, width=width, height=height)

    def note(sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    return bench_bundle(
        bundle.path,
        BenchSettings(frames=folder / "frames/images", backends="all", device=device, **settings),
        note=note,
        report=lambda done, total, what: note(f"{network} {size}: {done}/{total} {what}"),
    )


def render(document: dict[str, Any], milliseconds: bool) -> str:
    """The page."""
    rows = document["rows"]
    measured = [row for row in rows if row["error"] is None]
    p50 = {(row["network"], row["size"], row["backend"]): row["p50_ms"] for row in measured}
    said, versions = document["machine"], document["versions"]
    counts = sorted({row["queries"] for row in measured})
    columns = ["network", "size", "artefact", "backend", "p50 of torch eager's"]
    columns += ["of torch.compile's", "p99 over p50", "p50 varies", "outside the engine"]
    columns += ["added MiB", "same labels"]
    columns += ["p50 ms", "p99 ms", "GPU MiB", "mJ a frame"] if milliseconds else []
    lines = [
        "# Engines, side by side",
        "",
        f"{machine_line()}, torch {versions.get('torch')}, onnxruntime "
        f"{versions.get('onnxruntime')}, {document['date']}. End to end, a frame in memory to its "
        f"labels, one stream, {' to '.join(map(str, counts[:1] + counts[1:][-1:]))} queries a row, "
        "rows in turns. Printed by `python benchmarks/engines.py`; torch.compile with its default "
        "settings.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for row in measured:
        eager, compiled = (
            p50.get((row["network"], row["size"], b)) for b in ("torch", "torch-compile")
        )
        cells: list[object] = [row["network"], row["size"], row["artefact"], row["backend"]]
        cells += [f"{row['p50_ms'] / other:.2f}" if other else "-" for other in (eager, compiled)]
        cells += [f"{row['p99_ms'] / row['p50_ms']:.2f}", f"{row['cov']:.1f} %"]
        cells += [f"{row['outside_engine_percent']:.2f} %", f"{row['added_mib']:.0f}"]
        cells.append("-" if row["label_agreement"] is None else f"{row['label_agreement']:.2f} %")
        if milliseconds:
            keys = ("p50_ms", "p99_ms", "gpu_mib", "energy_mj")
            cells += ["-" if row[key] is None else f"{row[key]:.2f}" for key in keys]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["error"] is not None:
            what = f"{row['network']} {row['size']} {row['artefact'] or ''} on {row['backend']}"
            reasons.setdefault(row["error"], []).append(" ".join(what.split()))
    lines += ["", *(f"Left out, {', '.join(what)}: {why}" for why, what in reasons.items())]
    busy = [row["machine"]["other_cores"] for row in measured]
    known = [cores for cores in busy if cores is not None]
    if known:
        busiest = f"Other programs kept up to {max(known):.2f} cores busy during a row"
        noisy = max(known) > NOISY_SHARE * said["cores"]
        lines.append(
            f"{busiest}, which favours what needs less of the machine: to be printed again on one "
            "that does nothing else."
            if noisy
            else f"{busiest}."
        )
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
