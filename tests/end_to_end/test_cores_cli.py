"""Cores on the command line: threads as asked for, a lower priority, and what a manifest says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from roadshift.runtime.bundle import open_bundle
from roadshift.runtime.probes.waiting import waiting

Command = Callable[..., Any]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_run_takes_as_many_threads_as_asked_and_says_how_they_wait(
    world: Any, command: Command, tmp_path: Path, threads: int
) -> None:
    before = torch.get_num_threads()
    try:
        done = command(
            *("adapt", world.source, world.dusk / "images", "--out", tmp_path / "out"),
            *("--method", "bn_stats", "--gate", "off", "--threads", threads, "--json"),
            *("--set", "statistics_share=0.5"),
        )
    finally:
        torch.set_num_threads(before)
    assert done.code == 0, done.err
    outcome: Any = open_bundle(tmp_path / "out").manifest.provenance.configuration["outcome"]
    assert outcome["threads"] == threads
    assert outcome["waiting"] == waiting()
    assert 0 <= outcome["crowded_s"] <= outcome["seconds"]


def test_learning_gives_way_to_other_programs(world: Any, tmp_path: Path) -> None:
    """Each run in a fork of one process: none can take back the priority that it gave up."""
    program = (
        "import json, os, sys\n"
        "from roadshift.adapt.workflows import adapt_request\n"
        "def said(*_, **__):\n"
        "    print(os.getpriority(os.PRIO_PROCESS, 0), flush=True)\n"
        "    os._exit(0)\n"
        "adapt_request.adapt_bundle = said\n"
        "from roadshift.cli import main\n"
        "for words in json.loads(sys.argv.pop()):\n"
        "    if not (child := os.fork()):\n"
        "        sys.argv += words\n"
        "        main()\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
    )
    command = ["adapt", str(world.source), str(world.dusk / "images"), "--out", str(tmp_path / "o")]
    runs: dict[int, list[str]] = {5: [], 0: ["--nice", "0"], 19: ["--nice", "19"]}
    ran = subprocess.run(
        [sys.executable, "-c", program, *command, json.dumps([*runs.values()])],
        capture_output=True,
        text=True,
        check=True,
    )
    now = os.getpriority(os.PRIO_PROCESS, 0)
    assert [int(line) for line in ran.stdout.split()] == [max(now, lower) for lower in runs]


def test_doctor_says_how_threads_wait(command: Command) -> None:
    checks = json.loads(command("doctor", "--json").out)
    (cpu,) = (check for check in checks if check["check"] == "cpu")
    assert f"threads wait {waiting()}" in cpu["found"]
