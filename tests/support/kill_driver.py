"""Runs an adaptation in forked children and kills them; prints what came of it as JSON.

Usage: kill_driver.py SOURCE FRAMES FOLDER. Forking spares each of the many runs torch's import.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch
from roadshift.adapt import RunOptions, adapt_bundle, resolve_config
from roadshift.runtime.bundle import open_bundle

STEPS, RANDOM_KILLS = 7, 20
CONFIG = resolve_config(
    "iapc",
    assignments=[f"training.steps={STEPS}", "training.batch_size=2", "training.amp=off"],
)
Moment = tuple[bool, str, str]  # (after the last step?, event, file)


def adapt(source: Path, frames: Path, out: Path) -> None:
    options = RunOptions(out, device="cpu", resume=True, checkpoint_every_s=0)
    opened = open_bundle(source, allow_networks=["tiny_network"])
    adapt_bundle(opened, [frames], CONFIG, options)


def fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def was_killed(pid: int) -> bool:
    """Waits for the child; anything but an end by SIGKILL or a success is an error."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        raise SystemExit(f"a child ended with status {status}")
    return False


def is_done(out: Path) -> bool:
    return out.exists() and not out.with_name(out.name + ".run").exists()


def outcome(out: Path) -> dict[str, Any]:
    """Hashes of the result; opening it verifies that it is whole."""
    bundle = open_bundle(out)
    history = (out / "history.jsonl").read_bytes()
    return {
        "weights": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
        "history": hashlib.sha256(history).hexdigest(),
        "steps": [json.loads(line)["step"] for line in history.splitlines()],
        "parent": bundle.manifest.provenance.parent,
    }


def on_file_events(folder: Path, heard: Callable[[Moment], None]) -> None:
    """Calls ``heard`` before every file of ``folder`` is opened, renamed or removed."""
    root = str(folder)
    after_steps = folder / "out.run" / "stage-1.safetensors"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        names = arguments[:1] if event in ("open", "os.remove", "os.mkdir", "os.truncate") else ()
        if event == "os.rename":
            names = arguments[:2]
        for name in names:
            if isinstance(name, (str, os.PathLike)) and str(name).startswith(root):
                file = re.sub(r"tmp-\w+", "tmp", str(name)[len(root) :])
                file = re.sub(r"\d{6}", "N", file)
                heard((after_steps.exists(), event, file))
                return

    sys.addaudithook(hook)


def random_kills(source: Path, frames: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """Kills at random moments of up to ``seconds`` after each start, each followed by a resume."""
    rng = random.Random(0)
    kills, outcomes, out = 0, [], folder / "run-0" / "out"
    while True:
        out = folder / f"run-{len(outcomes)}" / "out"
        out.parent.mkdir(parents=True, exist_ok=True)
        pid = fork(lambda out=out: adapt(source, frames, out))
        if kills < RANDOM_KILLS:
            time.sleep(rng.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
        kills += was_killed(pid)
        if is_done(out):
            outcomes.append(outcome(out))
            if kills == RANDOM_KILLS:
                return {"kills": kills, "outcomes": outcomes}


def kills_at_every_write(source: Path, frames: Path, folder: Path) -> dict[str, Any]:
    """One run, killed before every kind of file operation in turn, resumed after each."""
    folder.mkdir()
    (folder / "whole").mkdir()
    log = folder / "moments.txt"

    def recorded() -> None:
        seen: dict[Moment, None] = {}
        on_file_events(folder / "whole", lambda moment: seen.setdefault(moment))
        adapt(source, frames, folder / "whole" / "out")
        moments = list(seen)
        log.write_text(json.dumps(moments))

    assert not was_killed(fork(recorded))
    moments: list[Moment] = [tuple(moment) for moment in json.loads(log.read_text())]
    home = folder / "killed"
    home.mkdir()

    def killed_at(moment: Moment) -> None:
        def heard(now: Moment) -> None:
            if now == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        on_file_events(home, heard)
        adapt(source, frames, home / "out")

    survived = []
    for moment in moments:
        if is_done(home / "out"):
            break
        if not was_killed(fork(lambda moment=moment: killed_at(moment))):
            survived.append(moment)
    if not is_done(home / "out"):
        assert not was_killed(fork(lambda: adapt(source, frames, home / "out")))
    return {"moments": moments, "survived": survived, "outcomes": [outcome(home / "out")]}


def main() -> None:
    source, frames, folder = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    (folder / "first").mkdir()
    adapt(source, frames, folder / "first" / "out")  # imports what torch imports late
    (folder / "timed").mkdir()
    start = time.monotonic()
    assert not was_killed(fork(lambda: adapt(source, frames, folder / "timed" / "out")))
    seconds = time.monotonic() - start
    result = {
        "whole": outcome(folder / "timed" / "out"),
        "random": random_kills(source, frames, folder / "random", seconds),
        "writes": kills_at_every_write(source, frames, folder / "writes"),
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
