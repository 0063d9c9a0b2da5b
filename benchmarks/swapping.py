"""Swaps of models under a camera: frames lost, and latencies with swaps and without.

    python benchmarks/swapping.py BUNDLE [--swaps 1000] [--every 0.25] [--rounds 5] [--out OUT]

BUNDLE is exported; two copies of it with other manifests are signed with a key made here and
installed in slots made here. A camera is played, newest frame first, through the engine of the
slots, in rounds: without swaps, then while another program makes the other slot active as soon as
the last swap was served and so many seconds have passed. Frames that were dropped are counted in
both, by what held the thread that was late, the engine's or the camera's (see `Drop`). The ratio of
the 99th percentiles is the median over the rounds, in which both halves have the same neighbours on
the machine. The time that a frame waits for locks in the engine, that is neither computes nor waits
for a core that somebody else has, is told apart; it is what swaps cost by themselves. Writes
OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
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


@dataclass(frozen=True)
class WorkOnFrame:
    """A thread's work on one frame: when, and where the milliseconds went."""

    frame: int
    began: float
    ended: float
    computed_ms: float
    for_core_ms: float  # ready to run, while others had the cores
    waited_ms: float  # neither: for a lock, for a time to come
    ours_ms: float  # computed meanwhile by this process' other threads


@dataclass(frozen=True)
class Drop:
    """A frame that a newer one replaced.

    ``late`` is "engine" where the engine was at an older frame for most of the time that this one
    waited, and "camera" where it was not: the thread that plays the recording had fallen behind,
    and gave both at once. ``cause`` is what took most of that thread's ``work``: computing (beyond
    its median), waiting for a core that own threads or other programs had, or locks.
    """

    frame: int
    late: str
    cause: str
    work: WorkOnFrame


class Stopwatch:
    """The accounts of one thread between two moments (Linux)."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self._before = self._accounts()

    def work(self, frame: int) -> WorkOnFrame:
        wall, computed, for_core, process = 1000 * (self._accounts() - self._before)
        ours, waited = max(0.0, process - computed), max(0.0, wall - computed - for_core)
        return WorkOnFrame(frame, self.began, time.perf_counter(), computed, for_core, waited, ours)

    @staticmethod
    def _accounts() -> NDArray[np.float64]:
        text = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text()
        for_core = int(text.split()[1]) / 1e9
        return np.array([time.perf_counter(), time.thread_time(), for_core, time.process_time()])


class Watched(SlotEngine):
    """The engine of the slots; ``works`` are what it did with each frame that it served."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.works = list[WorkOnFrame]()
        super().__init__(*arguments, **options)

    def infer(self, batch: NDArray[np.uint8], names: Sequence[str] = ()) -> NDArray[np.uint8]:
        watch = Stopwatch()
        labels = super().infer(batch, names)
        self.works.append(watch.work(int(names[0])))
        return labels


def watched(frames: Iterable[Frame], period_s: float, works: list[WorkOnFrame]) -> Iterator[Frame]:
    """Frames, and what the thread that gives them did since the last; it waits when it is late."""
    watch, first = Stopwatch(), None
    for frame in frames:
        work = watch.work(int(frame.name))
        first = work.ended if first is None else first
        late_ms = max(0.0, 1000 * (work.ended - first - work.frame * period_s))
        works.append(replace(work, waited_ms=min(work.waited_ms, late_ms)))
        watch = Stopwatch()
        yield frame


def drops(engine: list[WorkOnFrame], camera: list[WorkOnFrame]) -> list[Drop]:
    """The frames that were dropped, each with its reason."""
    served = {work.frame for work in engine}
    found = list[Drop]()
    for given, newer in itertools.pairwise(camera):
        if given.frame in served:
            continue
        longest = max(engine, key=lambda work: overlap_s(work, given, newer))
        if 2 * overlap_s(longest, given, newer) > newer.ended - given.ended:
            found.append(Drop(given.frame, "engine", cause(longest, engine), longest))
        else:
            behind = max(camera[max(0, given.frame - 2) : given.frame + 1], key=length_ms)
            found.append(Drop(given.frame, "camera", cause(behind, camera), behind))
    return found


def cause(work: WorkOnFrame, usual: list[WorkOnFrame]) -> str:
    """The reason that took most of the time of this work of a thread."""
    had_the_core = "own threads" if work.ours_ms > work.for_core_ms / 2 else "other programs"
    times = {
        "computing": work.computed_ms - statistics.median(other.computed_ms for other in usual),
        had_the_core: work.for_core_ms,
        "locks": work.waited_ms,
    }
    return max(times, key=times.__getitem__)


def overlap_s(work: WorkOnFrame, given: WorkOnFrame, newer: WorkOnFrame) -> float:
    """Seconds that the engine was at this work while a frame waited for it."""
    return min(work.ended, newer.ended) - max(work.began, given.ended)


def length_ms(work: WorkOnFrame) -> float:
    return work.computed_ms + work.for_core_ms + work.waited_ms


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
                yield Frame(image, str(number), round(number * 1e9 / options.fps))
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
        camera = list[WorkOnFrame]()
        paced = watched(Paced(frames(), options.fps), 1 / options.fps, camera)
        with Pipeline(paced, engine, newest=True) as pipeline:
            for result in pipeline:
                latencies.append(result.latency_ms)
                infer.append(result.stages_ms["infer_ms"])
        locked = [work.waited_ms for work in engine.works]
        dropped = drops(engine.works, camera)
        if len(dropped) != pipeline.dropped:
            raise SystemExit(f"{pipeline.dropped} frames were dropped, and {len(dropped)} found")
    return {
        "swaps": swaps,
        "seconds": time.monotonic() - started,
        "frames": len(latencies),
        "dropped": len(dropped),
        "drops": [asdict(drop) for drop in dropped],
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
    drops = [drop for row in rows for drop in row["drops"]]
    return {**counts, **times, "max_ms": max(row["max_ms"] for row in rows), "drops": drops}


def causes(drops: list[dict[str, Any]]) -> str:
    """Reasons of drops, counted, such as ``2 (camera: other programs), 1 (engine: locks)``."""
    counts = Counter(f"{drop['late']}: {drop['cause']}" for drop in drops)
    return ", ".join(f"{count} ({cause})" for cause, count in counts.most_common()) or "0"


def line(name: str, row: dict[str, Any]) -> str:
    return (
        f"{name}: {row['swaps']} swaps, {row['frames']} frames, dropped {causes(row['drops'])}, "
        f"p50 {row['p50_ms']:.1f}, p99 {row['p99_ms']:.1f}, max {row['max_ms']:.1f}, "
        f"p99 of waits for locks {row['locked_p99_ms']:.2f} ms"
    )


def page(record: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {row['swaps']} | {row['frames']} | {causes(row['drops'])} | "
        f"{row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {row['max_ms']:.1f} | "
        f"{row['locked_p99_ms']:.2f} |"
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
