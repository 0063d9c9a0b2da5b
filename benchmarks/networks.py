"""Parameters, strides, operations and latency of every registered network.

    python benchmarks/networks.py [--size 1024x512] [--only pidnet_s,ddrnet23] [--rounds 7]
                                  [--row-seconds 60] [--threads 2] [--counts] [--quiet] [--again]
                                  [--out benchmarks/results/networks-cpu] [--page docs/networks.md]

Operations are counted by torch at 2048x1024, without memory for them. Latency is of ONNX Runtime on
the CPU, float32 and INT8 (`int8-cpu`), with random weights, from pixels to labels. Each network is
timed in turns with fast_scnn's float32, in one process. The table has the median time of a frame by
the clock, and the median over the rounds of the time over fast_scnn's in the same round: of the
seconds that all threads together spent computing, which other programs disturb less. How many cores
those kept busy is written down, and where they did, the table has the ratio alone.

INT8 is what `roadshift export` begins with: every operator that `int8-cpu` knows is quantised, its
ranges from one frame. It is timed, not verified: what the sweep would give back to float32 to keep
a trained network's labels is not known of random ones.

Everything is counted first, and then timed (not with --counts). A network that was timed at that
size, on as many threads, is not timed again, so that a stopped run goes on with the same command;
--quiet times those anew that were timed beside other programs, and --again all. A row takes rounds
until --row-seconds have passed since it began, three at least and --rounds at most. OUT.json,
OUT.md and the page are written after each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from machine_line import machine_line
from numpy.typing import NDArray
from random_bundle import random_bundle
from roadshift.adapt.models.loading import load_network
from roadshift.adapt.models.segmenter import Segmenter
from roadshift.adapt.networks import NETWORKS, build_network
from roadshift.commands.parse import parse_size
from roadshift.export.calibration import collect
from roadshift.export.onnx import write_graph
from roadshift.export.quantise import quantise, quantised_values
from roadshift.runtime.bundle import library_versions
from roadshift.runtime.engines.onnx.session import session_options
from roadshift.runtime.probes.machine_state import others_core_seconds
from roadshift.scenes import render_scene
from torch.utils.flop_counter import FlopCounterMode

BASE = "fast_scnn"
FORMS = {"deeplab_v3plus": ("resnet50", "resnet101", "mobilenet_v2")}  # by its backbone
COUNTED_AT = (2048, 1024)
TIMED = ("fp32", "int8")
BEGINS, ENDS = "<!-- table of benchmarks/networks.py -->", "<!-- end of the table -->"
LEAST_ROUNDS = 3
QUIET_CORES = 0.3  # that other programs may keep busy where milliseconds are believed
CALIBRATING_BYTES = 3 * 2**30  # of values in memory at a time; less takes more passes
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="1024x512")
    parser.add_argument("--only", help="names with commas; all unless given")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--row-seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/networks-cpu"))
    parser.add_argument("--page", type=Path, default=Path("docs/networks.md"))
    parser.add_argument("--counts", action="store_true", help="no times")
    parser.add_argument("--quiet", action="store_true", help="anew what was timed beside others")
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    asked = arguments.only.split(",") if arguments.only else list(NETWORKS)
    unknown = [name for name in asked if name not in NETWORKS]
    if unknown:
        parser.error(f"--only {','.join(unknown)}: choose of {', '.join(NETWORKS)}")
    if arguments.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds {arguments.rounds}: {LEAST_ROUNDS} at least")
    cases = [case for name in asked for case in cases_of(name)]
    kept = arguments.out.with_suffix(".json")
    rows = read(kept)
    for number, (title, name, given) in enumerate(cases, start=1):
        if title not in rows:
            say(f"{number}/{len(cases)} {title}: counting")
            rows[title] = counted(name, given)
            write(kept, rows, arguments)
        if arguments.again or (arguments.quiet and not is_quiet(rows[title])):
            rows[title].pop("at", None)
    base: bytes | None = None
    for number, (title, name, given) in enumerate([] if arguments.counts else cases, start=1):
        where = f"{number}/{len(cases)} {title} at {arguments.size}"
        if rows[title].get("at") == at(arguments):
            say(f"{where}: timed before")
            continue
        if base is None:
            say(f"{where}: exporting {BASE}, to be timed beside it")
            base = graphs(BASE, {}, arguments.size)["fp32"].SerializeToString()
        began = time.monotonic()
        say(f"{where}: exporting and quantising")
        models = graphs(name, given, arguments.size)
        rows[title] |= timed(base, models, arguments, where, began + arguments.row_seconds)
        rows[title] |= {"at": at(arguments), "date": date.today().isoformat()}
        write(kept, rows, arguments)
        say(f"{where}: {time.monotonic() - began:.0f} s")
    print(write(kept, rows, arguments))


def at(arguments: argparse.Namespace) -> dict[str, Any]:
    """Size and threads, which the rows of one table share."""
    return {"size": arguments.size, "threads": arguments.threads}


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def cases_of(name: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Title, name and arguments of every form of a network."""
    if name not in FORMS:
        return [(name, name, {})]
    return [(f"{name}, {backbone}", name, {"backbone": backbone}) for backbone in FORMS[name]]


def is_quiet(row: Row) -> bool:
    """Tell whether a row's times by the clock are those of a machine that did nothing else."""
    return float(row.get("other_cores", QUIET_CORES + 1)) <= QUIET_CORES


def read(path: Path) -> dict[str, Row]:
    """Rows that were measured before, by title."""
    rows: dict[str, Row] = json.loads(path.read_text())["rows"] if path.exists() else {}
    return rows


def write(path: Path, rows: Mapping[str, Row], arguments: argparse.Namespace) -> str:
    """Write all rows so far, in the registry's order, and the page; return their table."""
    order = [title for name in NETWORKS for title, _, _ in cases_of(name)]
    document = {
        "machine": machine_line(),
        "at": at(arguments),
        "versions": library_versions(),
        "rows": {title: rows[title] for title in order if title in rows},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    part.replace(path)
    table = render(document)
    path.with_suffix(".md").write_text(table)
    page = arguments.page.read_text()
    before, begins, rest = page.partition(BEGINS)
    _, ends, after = rest.partition(ENDS)
    if not (begins and ends):
        sys.exit(f"{arguments.page}: has no lines {BEGINS!r} and {ENDS!r} to put the table between")
    arguments.page.write_text(f"{before}{BEGINS}\n\n{table}\n{ENDS}{after}")
    return table


def counted(name: str, given: Mapping[str, Any]) -> Row:
    """Parameters, layers of batch norm, stride, and multiply-adds at `COUNTED_AT`."""
    width, height = COUNTED_AT
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build_network(name, 19, **given).eval()
        network(torch.empty(1, 3, height, width))
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "batch_norms": len(norms),
        "stride": network.stride,
        "flops": counter.get_total_flops(),
    }


def graphs(name: str, given: Mapping[str, Any], size: str) -> dict[str, onnx.ModelProto]:
    """The network's graph with random weights, by precision."""
    width, height = parse_size("--size", size)
    with tempfile.TemporaryDirectory() as folder:
        bundle = random_bundle(Path(folder) / "bundle", name, width, height, given)
        network = load_network(bundle, torch.device("cpu")).eval()
        segmenter = Segmenter(network, bundle.manifest.input).eval()
        model = write_graph(segmenter, bundle, Path(folder) / "model.onnx", with_logits=False)
    values = quantised_values(model, "int8-cpu")
    ranges = {
        value: histogram.range("minmax")
        for value, histogram in collect(
            model, values, [frame_of(size)], most_bytes=CALIBRATING_BYTES
        ).items()
    }
    return {"fp32": model, "int8": quantise(model, "int8-cpu", ranges)}


def frame_of(size: str) -> NDArray[np.uint8]:
    width, height = parse_size("--size", size)
    return render_scene(1, "daylight", width, height).image


def timed(
    base: bytes,
    models: Mapping[str, onnx.ModelProto],
    arguments: argparse.Namespace,
    where: str,
    until: float,
) -> Row:
    """Times of each precision, and the median of their ratios to the base's in the same round.

    Args:
        until: `time.monotonic` after which no round begins, but for the first few.
    """
    sessions = {"base": session(base, arguments.threads)} | {
        precision: session(model.SerializeToString(), arguments.threads)
        for precision, model in models.items()
    }
    frame = frame_of(arguments.size)[None]
    wall: dict[str, list[float]] = {name: [] for name in sessions}
    spent: dict[str, list[float]] = {name: [] for name in sessions}
    others, began_s = others_core_seconds(), time.monotonic()
    for number in range(arguments.rounds + 1):  # the first fills caches
        if number > LEAST_ROUNDS and time.monotonic() > until:
            break
        say(f"{where}: timing, round {number} of {arguments.rounds}")
        for name, running in sessions.items():
            began, before = time.perf_counter(), time.process_time()
            running.run(None, {"image": frame})
            if number:
                wall[name].append(1e3 * (time.perf_counter() - began))
                spent[name].append(1e3 * (time.process_time() - before))
    found: Row = {"wall_ms": wall, "processor_ms": spent}
    after = others_core_seconds()
    if others is not None and after is not None:
        found["other_cores"] = (after - others) / (time.monotonic() - began_s)
    for precision in models:
        pairs = zip(spent[precision], spent["base"], strict=True)
        found[precision] = statistics.median(own / other for own, other in pairs)
    return found


def session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = session_options(threads, spin=False)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def render(document: Mapping[str, Any]) -> str:
    """The table, with a line on how it was measured; a row of another size has no times in it."""
    wanted = document["at"]
    rows: dict[str, Row] = document["rows"]
    measured = [row for row in rows.values() if row.get("at") == wanted]
    head = ["network", "parameters, M", "stride", "batch norms", "GMAC at 2048x1024"]
    head += [f"{precision}, ms" for precision in ("fp32", "int8-cpu")]
    head += [f"{precision}, times {BASE}'s" for precision in ("fp32", "int8-cpu")]
    lines = [line(head), "|---|" + "---:|" * (len(head) - 1)]
    lines += [line(cells(title, row, row in measured)) for title, row in rows.items()]
    return "\n".join([*lines, "", how(document, measured), ""])


def how(document: Mapping[str, Any], measured: Sequence[Row]) -> str:
    """The lines below the table: the machine, and the spread of the times."""
    wanted, versions = document["at"], document["versions"]
    spread = max((apart(row, precision) for row in measured for precision in TIMED), default=0)
    said = (
        f"{document['machine']}, {wanted['threads']} threads, onnxruntime "
        f"{versions.get('onnxruntime')}, torch {versions.get('torch')}; a frame of "
        f"{wanted['size']}, from pixels to labels. The middle half of a network's rounds lies up "
        f"to {spread:.0f} % of the median ratio apart. A GMAC is a thousand million multiply-adds, "
        "half of what torch counts as "
        "operations."
    )
    if len(measured) < len(document["rows"]) or not all(map(is_quiet, measured)):
        said += " -: not timed, or in ms not while other programs were quiet."
    return said


def line(of: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, of))} |"


def cells(title: str, row: Row, is_timed: bool) -> list[str]:
    name, _, form = title.partition(", ")
    believed = is_timed and is_quiet(row)
    times = [f"{statistics.median(row['wall_ms'][p]):.0f}" for p in TIMED] if believed else "--"
    ratios = [f"{row[precision]:.2f}" for precision in TIMED] if is_timed else "--"
    return [
        f"`{name}`" + f", `{form}`" * bool(form),
        f"{row['parameters'] / 1e6:.2f}",
        str(row["stride"]),
        str(row["batch_norms"]),
        f"{row['flops'] / 2e9:.1f}",
        *times,
        *ratios,
    ]


def apart(row: Row, precision: str) -> float:
    """Distance of the quartiles of a network's ratios, in percent of their median."""
    pairs = zip(row["processor_ms"][precision], row["processor_ms"]["base"], strict=True)
    low, _, high = statistics.quantiles([own / other for own, other in pairs], n=4)
    return float(100 * (high - low) / row[precision])


if __name__ == "__main__":
    main()
