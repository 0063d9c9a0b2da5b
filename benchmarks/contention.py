"""Commands alone and beside busy programs, by how their threads wait. Writes docs/contention.md.

    python benchmarks/contention.py [--work DIR] [--repeats 3] [--tasks steps,run] [--limit 120]

Whole commands in turns, each a process of its own: a training of ten steps, a judgement, an
export compared with torch, `roadshift run` over a clip, and the demo; with no, one and two programs
beside them that do nothing but count. "as torch comes" is libgomp's default (300,000 turns), and
ONNX Runtime's; "always asleep" is OMP_WAIT_POLICY=PASSIVE. Without --work a demo is made first.
"As torch comes" beside others is stopped after --limit seconds, tried once, and left out for the
demo, where it would take an hour. With --add the rows of tasks that are not measured now stay as
the result file has them: the ratios of a task are always of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
from machine_line import machine_line

PAGE = Path("docs/contention.md")
RESULT = Path("benchmarks/results/contention-cpu.json")
TEMPLATE = Path(__file__).with_name("contention_page.md")
POLICIES = {
    "as torch comes": {"GOMP_SPINCOUNT": "300000"},
    "always asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "roadshift": {},
}
HOURS = "as torch comes"  # where others are busy
BESIDE = (0, 1, 2)
TASKS = ("steps", "judging", "parity", "run", "demo")
CLIP_FRAMES = 600


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, help="A folder that `roadshift demo` made.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--beside", default=",".join(map(str, BESIDE)))
    parser.add_argument("--limit", type=float, default=120.0, help="Of a command as torch comes.")
    parser.add_argument("--add", action="store_true", help="Keep what other tasks measured.")
    arguments = parser.parse_args()
    tasks, policies = arguments.tasks.split(","), arguments.policies.split(",")
    counts = list(map(int, arguments.beside.split(",")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo = arguments.work or folder / "demo"
        if not demo.exists():
            command("roadshift", {}, None)("demo", "--out", str(demo))
        make_clip(demo, folder / "clip.mp4")
        rows = measure(folder, demo, tasks, policies, counts, arguments.repeats, arguments.limit)
    if arguments.add:
        known = json.loads(RESULT.read_text(encoding="utf-8"))
        rows = [row for row in known if row["task"] not in tasks] + rows
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    page = TEMPLATE.read_text(encoding="utf-8")
    page = page.replace("{machine}", machine_line()).replace("{table}", "\n".join(table(rows)))
    PAGE.write_text(page, encoding="utf-8")
    print("\n".join(table(rows)))


def make_clip(demo: Path, path: Path) -> None:
    """The demo's target frames, over and over, as a video."""
    frames = [cv2.imread(str(p)) for p in sorted((demo / "scenes/target/images").glob("*.png"))]
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (width, height))
    for i in range(CLIP_FRAMES):
        writer.write(frames[i % len(frames)])
    writer.release()


def command(policy: str, environment: dict[str, str], limit_s: float | None) -> Any:
    """A function that runs `roadshift` with that policy and returns its JSON document.

    It raises `subprocess.TimeoutExpired` after ``limit_s``.
    """
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}

    def run(*words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "roadshift.cli", *words, "--json"],
            env={**clean, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=limit_s,
            check=False,
        )
        if done.returncode not in (0, 5, 6):  # 5 and 6 are a verdict
            raise SystemExit(f"roadshift {' '.join(words)} ({policy}) exited {done.returncode}")
        return json.loads(done.stdout)

    return run


@contextmanager
def beside(count: int) -> Iterator[None]:
    """``count`` other programs that are always busy."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def perform(task: str, run: Any, folder: Path, demo: Path) -> dict[str, float]:
    """Figures of one run of ``task``: wall-clock seconds, and latencies of `run`."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    images = str(demo / "scenes/target/images")
    source, adapted = str(demo / "source"), str(demo / "adapted")
    if task == "parity":
        shutil.copytree(demo / "source", out)
    started = time.monotonic()
    found: dict[str, float] = {}
    if task == "steps":
        settings = ("--set", "training.steps=10", "--set", "training.amp=off", "--gate", "off")
        said = run("adapt", source, images, "--method", "iapc", "--out", str(out), *settings)
        found["steps_s"] = said["outcome"]["seconds"]
    elif task == "judging":
        run("judge", source, adapted, images, "--max-frames", "16")
    elif task == "parity":
        run("export", str(out), "--to", "onnx", "--frames", images)
    elif task == "run":
        said = run("run", adapted, str(folder / "clip.mp4"))
        found |= {f"{q}_ms": said["latency_ms"][q] for q in ("p50", "p99")}
    else:
        run("demo", "--out", str(out))
    return {"command_s": time.monotonic() - started, **found}


def measure(
    folder: Path,
    demo: Path,
    tasks: Sequence[str],
    policies: Sequence[str],
    counts: Sequence[int],
    repeats: int,
    limit_s: float,
) -> list[dict[str, Any]]:
    """A row for each task, policy and number of programs beside it: the median of ``repeats``."""
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for repeat in range(repeats):
        for task in tasks:
            if task == "demo" and repeat > 0:
                continue  # minutes long: once
            for count in counts:
                for policy in policies:
                    slow = policy == HOURS and count > 0
                    if slow and (repeat > 0 or task == "demo"):
                        continue
                    run = command(policy, POLICIES[policy], limit_s if slow else None)
                    try:
                        with beside(count):
                            figures = perform(task, run, folder, demo)
                    except subprocess.TimeoutExpired:
                        figures = {"over_s": limit_s}
                    found.setdefault((task, policy, count), []).append(figures)
                    shown = ", ".join(f"{k} {v:.1f}" for k, v in figures.items())
                    print(f"{repeat} {task}, {policy}, beside {count}: {shown}", flush=True)
    return [
        {"task": task, "policy": policy, "beside": count, "repeats": len(runs)}
        | {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for (task, policy, count), runs in found.items()
    ]


FIGURES = {
    "steps": ("steps_s", "ten training steps, with what comes before and after"),
    "judging": ("command_s", "judging 16 frames, the whole command"),
    "parity": ("command_s", "export and comparing with torch, the whole command"),
    "p50": ("p50_ms", "`run`, p50 of a frame"),
    "p99": ("p99_ms", "`run`, p99 of a frame"),
    "demo": ("command_s", "the demo"),
}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Ratios to "as torch comes" alone, since seconds of a shared CPU say little."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    counts = list(dict.fromkeys(row["beside"] for row in rows))
    heads = [f"{policy}, {count or 'none'} beside" for policy in policies for count in counts]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    by_key = {(row["task"], row["policy"], row["beside"]): row for row in rows}
    for name, (key, title) in FIGURES.items():
        task = "run" if name in ("p50", "p99") else name
        base = by_key.get((task, policies[0], counts[0]))
        if base is None:
            continue
        cells = [
            cell(by_key.get((task, policy, count)), key, base)
            for policy in policies
            for count in counts
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def cell(row: dict[str, Any] | None, key: str, base: dict[str, Any]) -> str:
    """``row``'s figure over that of ``base``; the least that it can be where it was stopped."""
    if row is None:
        return "-"
    if "over_s" in row:
        return "-" if key.endswith("_ms") else f"over {row['over_s'] / base['command_s']:.0f}"
    return f"{row[key] / base[key]:.2f}"


if __name__ == "__main__":
    main()
