"""Parameters, strides, operations and latency of every registered network.

    python benchmarks/networks.py [--size 1024x512] [--only pidnet_s,ddrnet23] [--rounds 7]
                                  [--threads 2] [--out benchmarks/results/networks-cpu]
                                  [--page docs/networks.md] [--counts] [--again]

Operations are counted by torch at 2048x1024, without memory for them. Latency is of ONNX Runtime on
the CPU, float32 and INT8 (`int8-cpu`), with random weights, from pixels to labels. Each network is
timed in turns with fast_scnn's float32, in one process, and what is shown is the median over the
rounds of the time over fast_scnn's in the same round: the seconds that all threads together spent
computing, which other programs on the machine disturb less than the wall's. The JSON file has the
wall's too, and INT8's ranges come from one frame, which is enough for time alone.

Everything is counted first, and then timed (not with --counts). A network that was timed at that
size is not timed again, so that a stopped run goes on with the same command; --again begins anew.
After each network this writes OUT.json, OUT.md and the page.
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
from roadshift.scenes import render_scene
from torch.utils.flop_counter import FlopCounterMode

BASE = "fast_scnn"
FORMS = {"deeplab_v3plus": ("resnet50", "resnet101", "mobilenet_v2")}  # by its backbone
COUNTED_AT = (2048, 1024)
TIMED = ("fp32", "int8")
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="1024x512")
    parser.add_argument("--only", help="names with commas; all unless given")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/networks-cpu"))
    parser.add_argument("--page", type=Path, default=Path("docs/networks.md"))
    parser.add_argument("--counts", action="store_true", help="no times")
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    asked = arguments.only.split(",") if arguments.only else list(NETWORKS)
    unknown = [name for name in asked if name not in NETWORKS]
    if unknown:
        parser.error(f"--only {','.join(unknown)}: choose of {', '.join(NETWORKS)}")
    kept = arguments.out.with_suffix(".json")
    rows = {} if arguments.again else read(kept)
    cases = [case for name in asked for case in cases_of(name)]
    for number, (title, name, given) in enumerate(cases, start=1):
        if title not in rows:
            say(f"{number}/{len(cases)} {title}: counting")
            rows[title] = counted(name, given)
            write(kept, rows, arguments)
    base: bytes | None = None
    for number, (title, name, given) in enumerate([] if arguments.counts else cases, start=1):
        where = f"{number}/{len(cases)} {title} at {arguments.size}"
        if rows[title].get("size") == arguments.size:
            say(f"{where}: timed before")
            continue
        began = time.monotonic()
        if base is None:
            say(f"{where}: exporting {BASE}, to be timed beside it")
            base = graphs(BASE, {}, arguments.size)["fp32"].SerializeToString()
        say(f"{where}: exporting and quantising")
        models = graphs(name, given, arguments.size)
        rows[title] |= timed(base, models, arguments, where)
        rows[title] |= {"size": arguments.size, "date": date.today().isoformat()}
        write(kept, rows, arguments)
        say(f"{where}: {time.monotonic() - began:.0f} s")
    print(write(kept, rows, arguments))


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def cases_of(name: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Title, name and arguments of every form of a network."""
    if name not in FORMS:
        return [(name, name, {})]
    return [(f"{name}, {backbone}", name, {"backbone": backbone}) for backbone in FORMS[name]]


def read(path: Path) -> dict[str, Row]:
    """Rows that were measured before, by title."""
    rows: dict[str, Row] = json.loads(path.read_text())["rows"] if path.exists() else {}
    return rows


def write(path: Path, rows: Mapping[str, Row], arguments: argparse.Namespace) -> str:
    """Write all rows so far, in the registry's order, and the page; return their table."""
    order = [title for name in NETWORKS for title, _, _ in cases_of(name)]
    document = {
        "machine": machine_line(),
        "threads": arguments.threads,
        "versions": library_versions(),
        "rows": {title: rows[title] for title in order if title in rows},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    part.replace(path)
    table = render(document)
    path.with_suffix(".md").write_text(table)
    page = Path(__file__).with_name("networks_page.md").read_text()
    arguments.page.write_text(page.replace("{{table}}", table))
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
        for value, histogram in collect(model, values, [frame_of(size)]).items()
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
) -> Row:
    """Times of each precision, and the median of their ratios to the base's in the same round."""
    sessions = {"base": session(base, arguments.threads)} | {
        precision: session(model.SerializeToString(), arguments.threads)
        for precision, model in models.items()
    }
    frame = frame_of(arguments.size)[None]
    wall: dict[str, list[float]] = {name: [] for name in sessions}
    spent: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(arguments.rounds + 1):  # the first fills caches
        say(f"{where}: timing, round {number} of {arguments.rounds}")
        for name, running in sessions.items():
            began, before = time.perf_counter(), time.process_time()
            running.run(None, {"image": frame})
            if number:
                wall[name].append(1e3 * (time.perf_counter() - began))
                spent[name].append(1e3 * (time.process_time() - before))
    found: Row = {"wall_ms": wall, "processor_ms": spent}
    for precision in models:
        pairs = zip(spent[precision], spent["base"], strict=True)
        found[precision] = statistics.median(own / other for own, other in pairs)
    return found


def session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def render(document: Mapping[str, Any]) -> str:
    """The table, with a line on how it was measured."""
    rows: Mapping[str, Row] = document["rows"]
    timed_rows = [row for row in rows.values() if "size" in row]
    sizes = " and ".join(dict.fromkeys(row["size"] for row in timed_rows)) or "no size yet"
    spread = max((apart(row, precision) for row in timed_rows for precision in TIMED), default=0)
    versions = document["versions"]
    head = ["network", "parameters, M", "stride", "batch norms", "GMAC at 2048x1024"]
    head += [f"{precision}, times {BASE}'s" for precision in ("fp32", "int8-cpu")]
    lines = [line(head), "|---|" + "---:|" * (len(head) - 1)]
    lines += [line(cells(title, row)) for title, row in rows.items()]
    said = (
        f"{document['machine']}, {document['threads']} threads, onnxruntime "
        f"{versions.get('onnxruntime')}, torch {versions.get('torch')}; time at {sizes}. A GMAC is "
        "a thousand million multiply-adds, half of what torch counts as operations. The middle "
        f"half of a network's rounds lies up to {spread:.0f} % of its median apart; -: not timed."
    )
    return "\n".join([*lines, "", said, ""])


def line(of: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, of))} |"


def cells(title: str, row: Row) -> list[str]:
    name, _, form = title.partition(", ")
    return [
        f"`{name}`" + f", `{form}`" * bool(form),
        f"{row['parameters'] / 1e6:.2f}",
        str(row["stride"]),
        str(row["batch_norms"]),
        f"{row['flops'] / 2e9:.1f}",
        *(f"{row[precision]:.2f}" if precision in row else "-" for precision in TIMED),
    ]


def apart(row: Row, precision: str) -> float:
    """Distance of the quartiles of a network's ratios, in percent of their median."""
    pairs = zip(row["processor_ms"][precision], row["processor_ms"]["base"], strict=True)
    low, _, high = statistics.quantiles([own / other for own, other in pairs], n=4)
    return float(100 * (high - low) / row[precision])


if __name__ == "__main__":
    main()
