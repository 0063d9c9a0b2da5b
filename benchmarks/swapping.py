"""Swaps of models under a camera: frames lost, and latencies with swaps and without.

    python benchmarks/swapping.py BUNDLE [--swaps 1000] [--every 0.25] [--rounds 5] [--out OUT]

BUNDLE is exported; two copies of it with other manifests are signed with a key made here and
installed in slots made here. A camera is played, newest frame first, through the engine of the
slots, in rounds: without swaps, then while another program makes the other slot active as soon as
the last swap was served and so many seconds have passed. Frames that were dropped are counted in
both; why one was is not told apart. The ratio of the 99th
percentiles is the median over the rounds, in which both halves have the same neighbours on the
machine. The time that a frame waits for locks in the engine, that is neither computes nor waits for
a core that another program has, is told apart; it is what swaps cost by themselves. Writes OUT.json
and OUT.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from machine_line import machine_line
from numpy.typing import NDArray
from roadshift.runtime.bundle import Bundle, extend_bundle, open_bundle
from roadshift.runtime.bundle.manifest import Measurement
from roadshift.runtime.bundle.packed import pack, unpacked
from roadshift.runtime.engines import open_engine
from roadshift.runtime.frames import Frame
from roadshift.runtime.pipeline import Pipeline
from roadshift.runtime.pipeline.pacing import Paced
from roadshift.runtime.signing import (
    Trust,
    create_trust,
    generate_key,
    load_private_key,
    sign_bundle,
)
from roadshift.runtime.slots import (
    Health,
    SlotStore,
    commit,
    create_slots,
    install,
    open_slots,
    try_model,
)
from roadshift.runtime.slots.serving import SlotEngine


def main() -> None:
    """Measure and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--every", type=float, default=0.0, help="seconds between two swaps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--swapping", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/swapping"))
    options = parser.parse_args()
    if options.swapping:  # the other program; BUNDLE are the slots
        swap(open_slots(options.bundle), options.swaps, options.every)
        return
    rows: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory() as folder:
        store, trust = vehicle(Path(folder), options.bundle)
        seconds = 0.0
        for _ in range(options.rounds):
            for name, swaps in (("with", options.swaps // options.rounds), ("without", 0)):
                rows[name].append(played(store, trust, options, swaps, seconds))
                print(line(name, rows[name][-1]), flush=True)
                seconds = rows["with"][-1]["seconds"]
    pairs = zip(rows["with"], rows["without"], strict=True)
    ratios = [after["p99_ms"] / before["p99_ms"] for after, before in pairs]
    record = {
        "machine": machine_line(),
        "date": date.today().isoformat(),
        "fps": options.fps,
        "threads": options.threads,
        "every_s": options.every,
        "rounds": options.rounds,
        **{name: together(found) for name, found in rows.items()},
        "p99_ratios": ratios,
        "p99_ratio": statistics.median(ratios),
    }
    options.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(page(record))
    print(options.out.with_suffix(".md").read_text())


def vehicle(folder: Path, source: Path) -> tuple[SlotStore, Trust]:
    """Slots with two good models, alike but for a mark."""
    generate_key(folder / "key")
    key = load_private_key(folder / "key")
    trust = create_trust(folder / "trust", {"maker": key.public})
    store = create_slots(folder / "slots")
    packed = pack(open_bundle(source), folder / "packed")
    for version in (1, 2):
        with unpacked(packed, beside=folder) as copied:
            bundle = marked(open_bundle(copied), version)
            sign_bundle(bundle, key, version=version)
            install(store, bundle.path, trust, self_test=False)
        try_model(store, trust, accept_ask=True)
        commit(store, Health(True, ("not examined",), 1, None))
    return store, trust


def marked(bundle: Bundle, version: int) -> Bundle:
    with extend_bundle(bundle) as writer:
        return writer.commit(measured=[Measurement(name="mark", value=version, unit="", how="")])


class Watched(SlotEngine):
    """The engine of the slots; ``locked_ms`` are what frames waited for locks in it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.locked_ms = list[float]()
        super().__init__(*arguments, **options)

    def infer(self, batch: NDArray[np.uint8], names: Sequence[str] = ()) -> NDArray[np.uint8]:
        before = accounts()
        labels = super().infer(batch, names)
        wall, computed, for_core = np.subtract(accounts(), before)
        self.locked_ms.append(max(0.0, 1000 * float(wall - computed - for_core)))
        return labels


def accounts() -> tuple[float, float, float]:
    """Seconds of this thread: since some moment, computing, and waiting for a core (Linux)."""
    waited = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()[1]
    return time.perf_counter(), time.thread_time(), int(waited) / 1e9


def swap(store: SlotStore, swaps: int, every_s: float) -> None:
    """Make the other slot active, so often; each time once the last one serves."""
    for _ in range(swaps):
        due = time.monotonic() + every_s
        with store.changing() as state:
            after = store.change(state, "committed", {}, active=state.idle)
        served = {"hash": after.slots[after.active].hash}  # type: ignore[index]
        while (record := store.state().record)["event"] != "swapped" or record["details"] != served:
            time.sleep(0.1)  # a look takes a millisecond of a core that frames want
        time.sleep(max(0.0, due - time.monotonic()))


def played(
    store: SlotStore, trust: Trust, options: argparse.Namespace, swaps: int, seconds: float
) -> dict[str, Any]:
    """Latencies of a camera, played until so many swaps were served, or for so many seconds."""
    opening = lambda bundle: open_engine(bundle, threads=options.threads, device="cpu")  # noqa: E731
    done = threading.Event()
    with Watched(store, trust, open_with=opening) as engine:
        size = engine.input.width, engine.input.height
        image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)

        def frames() -> Iterator[Frame]:
            number = 0
            while not done.is_set():
                yield Frame(image, f"f{number}", round(number * 1e9 / options.fps))
                number += 1

        def play() -> None:
            if swaps:
                other = [__file__, str(store.path), "--swapping", "--swaps", str(swaps)]
                every = ["--every", str(options.every)]
                subprocess.run([sys.executable, *other, *every], check=True)
            else:
                time.sleep(seconds)
            done.set()

        threading.Thread(target=play, daemon=True).start()
        started = time.monotonic()
        latencies, infer = [], []
        paced = Paced(frames(), options.fps)
        with Pipeline(paced, engine, newest=True) as pipeline:
            for result in pipeline:
                latencies.append(result.latency_ms)
                infer.append(result.stages_ms["infer_ms"])
            dropped = pipeline.dropped
        locked = list(engine.locked_ms)
    return {
        "swaps": swaps,
        "seconds": time.monotonic() - started,
        "frames": len(latencies),
        "dropped": dropped,
        "p50_ms": float(np.percentile(latencies, 50)),
        "p99_ms": float(np.percentile(latencies, 99)),
        "max_ms": float(max(latencies)),
        "infer_p50_ms": float(np.percentile(infer, 50)),
        "infer_p99_ms": float(np.percentile(infer, 99)),
        "locked_p99_ms": float(np.percentile(locked, 99)),
    }


def together(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rounds of one half: counts summed, times as their median, the longest of all."""
    counts = {key: sum(row[key] for row in rows) for key in ("swaps", "frames", "dropped")}
    times = {key: statistics.median(row[key] for row in rows) for key in rows[0] if "_ms" in key}
    return {**counts, **times, "max_ms": max(row["max_ms"] for row in rows)}


def line(name: str, row: dict[str, Any]) -> str:
    return (
        f"{name}: {row['swaps']} swaps, {row['frames']} frames, {row['dropped']} dropped, "
        f"p50 {row['p50_ms']:.1f}, p99 {row['p99_ms']:.1f}, max {row['max_ms']:.1f}, "
        f"p99 of waits for locks {row['locked_p99_ms']:.2f} ms"
    )


def page(record: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {row['swaps']} | {row['frames']} | {row['dropped']} | {row['p50_ms']:.1f} | "
        f"{row['p99_ms']:.1f} | {row['max_ms']:.1f} | {row['locked_p99_ms']:.2f} |"
        for name, row in (("without", record["without"]), ("with", record["with"]))
    ]
    return "\n".join(
        [
            f"A camera of {record['fps']:g} frames a second, {record['threads']} thread of the "
            f"engine, {record['rounds']} rounds, a swap as soon as the last one serves and "
            f"{record['every_s']:g} s have passed; {record['machine']}, {record['date']}. p99 with "
            f"swaps is {record['p99_ratio']:.2f} of that without (median; "
            f"{min(record['p99_ratios']):.2f} to {max(record['p99_ratios']):.2f}); p50 and p99 "
            "are medians of the rounds.",
            "",
            "| swaps | made | frames served | dropped | p50 ms | p99 ms | max ms | p99 of locks |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
