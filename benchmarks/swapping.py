"""Swaps of models under a camera: frames lost, and latencies with swaps and without.

    python benchmarks/swapping.py BUNDLE [--swaps 1000] [--fps 30] [--out OUT]

BUNDLE is exported; two copies of it with other manifests are signed with a key made here and
installed in slots made here. A camera is played, newest frame first, through the engine of the
slots: first without swaps, then while another program makes the other slot active as soon as the
last swap was served, as often as asked for. A frame counts as lost to swaps where the engine, at
the time that it takes without them, could have served it. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from machine_line import machine_line
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
    read_audit,
    try_model,
)
from roadshift.runtime.slots.serving import SlotEngine


def main() -> None:
    """Measure and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--baseline-s", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/swapping"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store, trust = vehicle(Path(folder), options.bundle)
        without = played(store, trust, options, swaps=0)
        print(line("without", without), flush=True)
        swapped = played(store, trust, options, swaps=options.swaps)
        print(line("with", swapped), flush=True)
    record = {
        "machine": machine_line(),
        "date": date.today().isoformat(),
        "fps": options.fps,
        "threads": options.threads,
        "without": without,
        "with": swapped,
        "p99_ratio": swapped["p99_ms"] / without["p99_ms"],
    }
    options.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(page(record))
    print(options.out.with_suffix(".md"))


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


def played(
    store: SlotStore, trust: Trust, options: argparse.Namespace, *, swaps: int
) -> dict[str, Any]:
    """Latencies and counts of a camera that is played until so many swaps were served."""
    opening = lambda bundle: open_engine(bundle, threads=options.threads, device="cpu")  # noqa: E731
    done, swapped = threading.Event(), [0]
    with SlotEngine(store, trust, open_with=opening) as engine:
        size = engine.input.width, engine.input.height
        image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)

        def frames() -> Iterator[Frame]:
            number = 0
            while not done.is_set():
                yield Frame(image, f"f{number}", round(number * 1e9 / options.fps))
                number += 1

        def swap() -> None:
            while swapped[0] < swaps:
                with store.changing() as state:
                    after = store.change(state, "committed", {}, active=state.idle)
                served = after.slots[after.active].hash  # type: ignore[index]
                while engine._serving.hash != served:
                    time.sleep(0.005)
                swapped[0] += 1
                if swapped[0] % 100 == 0:
                    print(f"swaps: {swapped[0]}/{swaps}", flush=True)
            if not swaps:
                time.sleep(options.baseline_s)
            done.set()

        threading.Thread(target=swap, daemon=True).start()
        started = time.monotonic()
        latencies, infer = [], []
        paced = Paced(frames(), options.fps)
        with Pipeline(paced, engine, newest=True) as pipeline:
            for result in pipeline:
                latencies.append(result.latency_ms)
                infer.append(result.stages_ms["infer_ms"])
            dropped = pipeline.dropped
    assert len(list(read_audit(store.path)))
    return {
        "swaps": swapped[0],
        "seconds": time.monotonic() - started,
        "frames": len(latencies),
        "dropped": dropped,
        "p50_ms": float(np.percentile(latencies, 50)),
        "p99_ms": float(np.percentile(latencies, 99)),
        "max_ms": float(max(latencies)),
        "infer_p50_ms": float(np.percentile(infer, 50)),
        "infer_p99_ms": float(np.percentile(infer, 99)),
    }


def line(name: str, row: dict[str, Any]) -> str:
    return (
        f"{name}: {row['swaps']} swaps, {row['frames']} frames, {row['dropped']} dropped, "
        f"p50 {row['p50_ms']:.1f}, p99 {row['p99_ms']:.1f}, max {row['max_ms']:.1f} ms"
    )


def page(record: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {row['swaps']} | {row['frames']} | {row['dropped']} | {row['p50_ms']:.1f} | "
        f"{row['p99_ms']:.1f} | {row['max_ms']:.1f} |"
        for name, row in (("without", record["without"]), ("with", record["with"]))
    ]
    return "\n".join(
        [
            f"A camera of {record['fps']:g} frames a second, {record['threads']} thread of the "
            f"engine; {record['machine']}, {record['date']}. p99 with swaps is "
            f"{record['p99_ratio']:.2f} of that without.",
            "",
            "| swaps | made | frames served | dropped | p50 ms | p99 ms | max ms |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
