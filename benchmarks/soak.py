"""A long drive in small: does `roadshift run` keep its memory, and account for every frame?

    python benchmarks/soak.py [--frames 50000] [--rate 250] [--ceiling-mib 512]
                              [--out benchmarks/results/soak-cpu]

The command runs twice, each time on a `fast_scnn` of 64x32 pixels and writing a video of overlays:
once on a recording, 1,000 frames of built-in scenes as often as it takes, and once on a live stream
that this program serves as motion JPEG over HTTP, faster than the engine can follow, and whose
connection breaks every 10,000 frames. Resident memory is read from /proc twice a second. Warm-up
is the first tenth of the frames. Writes OUT.json and OUT.md, and fails where memory passes the
ceiling, grows by more than 20 MiB after warm-up, or a frame is neither delivered nor dropped.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
from machine_line import machine_line
from random_bundle import random_bundle
from roadshift.export.artefacts import export_bundle
from roadshift.export.judge import Floors
from roadshift.runtime.bundle import library_versions
from roadshift.scenes import render_scene

WIDTH, HEIGHT = 64, 32
CLIP_FRAMES, BREAK_AFTER = 1000, 10_000
MOST_GROWTH_MIB = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--frames", type=int, default=50_000)
    parser.add_argument("--rate", type=float, default=250.0, help="frames a second of the stream")
    parser.add_argument("--ceiling-mib", type=float, default=512.0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/soak-cpu"))
    arguments = parser.parse_args()
    count, ceiling = arguments.frames, arguments.ceiling_mib
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = make_bundle(folder / "bundle")
        jpegs = make_clip(folder / "clip.avi")
        clips = [folder / "clip.avi"] * -(-count // CLIP_FRAMES)
        rows = [drive("recording", bundle, clips, folder / "recording.mp4", count, ceiling)]
        with stream(jpegs, arguments.rate) as url:
            rows.append(drive("live stream", bundle, [url], folder / "live.mp4", count, ceiling))
    record = {
        "date": date.today().isoformat(),
        "machine": machine_line(),
        "versions": library_versions(),
        "frames": count,
        "stream_rate": arguments.rate,
        "ceiling_mib": ceiling,
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    arguments.out.with_suffix(".md").write_text(render(record))
    print(render(record))
    return 0 if all(row["passed"] for row in rows) else 1


def make_bundle(path: Path) -> Path:
    bundle = random_bundle(path, "fast_scnn", WIDTH, HEIGHT)
    export_bundle(bundle, ("onnx",), argmax="graph", floors=Floors(min_agreement=99.0))
    return path


def make_clip(path: Path) -> list[bytes]:
    """A video of 30 frames a second, and the same frames as JPEG files."""
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), codec, 30.0, (WIDTH, HEIGHT))
    scenes = [
        cv2.cvtColor(render_scene(seed, "daylight", WIDTH, HEIGHT).image, cv2.COLOR_RGB2BGR)
        for seed in range(16)
    ]
    for index in range(CLIP_FRAMES):
        writer.write(scenes[index % len(scenes)])
    writer.release()
    return [cv2.imencode(".jpg", scene)[1].tobytes() for scene in scenes]


@contextmanager
def stream(jpegs: list[bytes], rate: float) -> Iterator[str]:
    """The URL of an endless motion JPEG stream whose connections break."""

    class MotionJpeg(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            started = time.perf_counter()
            try:
                for index in range(BREAK_AFTER):
                    jpeg = jpegs[index % len(jpegs)]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}"
                    self.wfile.write(head.encode() + b"\r\n\r\n" + jpeg + b"\r\n")
                    early = started + index / rate - time.perf_counter()
                    if early > 0:
                        time.sleep(early)
            except OSError:  # the reader has seen enough
                return

    with ThreadingHTTPServer(("127.0.0.1", 0), MotionJpeg) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/front"
        server.shutdown()


def drive(
    name: str, bundle: Path, sources: list[Any], out: Path, frames: int, ceiling_mib: float
) -> dict[str, Any]:
    """Run the command, watch its memory, and check its sums."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "roadshift.cli", "run", str(bundle), *map(str, sources)),
            *("--out", str(out), "--overlay", "--max-frames", str(frames), "--device", "cpu"),
            "--json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    done = 0

    def follow() -> None:
        nonlocal done
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.match(r"run: (\d+)", line):
                done = int(found[1])
                dropped = re.search(r"(\d+) dropped", line)
                done += int(dropped[1]) if dropped else 0

    printed: list[str] = []
    assert process.stdout is not None
    output = process.stdout
    threads = [
        threading.Thread(target=follow),
        threading.Thread(target=lambda: printed.append(output.read())),
    ]
    for thread in threads:
        thread.start()
    samples: list[tuple[int, float]] = []  # frames done, MiB
    over = False
    while process.poll() is None:
        rss = resident_mib(process.pid)
        if rss:
            samples.append((done, rss))
        if rss > ceiling_mib and not over:
            over = True
            process.terminate()
        time.sleep(0.5)
    for thread in threads:
        thread.join()
    summary = json.loads(printed[0])
    warm = [mib for at, mib in samples if 0 < at <= frames // 10]
    after = [mib for at, mib in samples if at > frames // 10]
    growth = max(after) - max(warm)
    delivered, dropped, read = (summary[key] for key in ("frames", "dropped", "frames_read"))
    accounted = read == frames == delivered + dropped and summary["in_flight"] == 0
    step = max(1, len(samples) // 40)
    return {
        "source": name,
        "frames_read": read,
        "delivered": delivered,
        "dropped": dropped,
        "reconnects": summary["reconnects"],
        "every_frame_accounted_for": accounted,
        "warm_mib": max(warm),
        "peak_mib": max(after),
        "end_mib": after[-1],
        "growth_mib": growth,
        "seconds": summary["seconds"],
        "latency_ms": summary["latency_ms"],
        "samples": samples[::step],
        "passed": accounted and growth <= MOST_GROWTH_MIB and not over,
    }


def resident_mib(pid: int) -> float:
    """Resident memory of a process, 0 once it is gone."""
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def render(record: dict[str, Any]) -> str:
    versions = record["versions"]
    lines = [
        f"`roadshift run`, {record['frames']} frames of {WIDTH}x{HEIGHT}, `fast_scnn`, a video of "
        f"overlays written; {record['machine']}, onnxruntime "
        f"{versions.get('onnxruntime')}, opencv {versions.get('opencv')}, {record['date']}. The "
        f"stream gives {record['stream_rate']:.0f} frames a second and breaks every "
        f"{BREAK_AFTER} frames. Memory is resident MiB of the process, highest of the first tenth "
        "of the frames (warm-up) and after it; allowed: "
        f"{MOST_GROWTH_MIB:.0f} MiB of growth, {record['ceiling_mib']:.0f} MiB in all.",
        "",
        "| source | read | delivered | dropped | reconnects | accounted for "
        "| warm-up | highest after | at the end | growth |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['source']} | {row['frames_read']} | {row['delivered']} | {row['dropped']} | "
        f"{'-' if row['reconnects'] is None else row['reconnects']} | "
        f"{'all' if row['every_frame_accounted_for'] else 'NOT ALL'} | "
        f"{row['warm_mib']:.1f} | {row['peak_mib']:.1f} | {row['end_mib']:.1f} | "
        f"{row['growth_mib']:.1f} |"
        for row in record["rows"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
