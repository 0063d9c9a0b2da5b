"""Other processes and threads: what they print, and waiting for what they do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

TIMEOUT_S = 60.0  # only a failure waits so long


def python_output(*words: object) -> str:
    """The output of ``python WORDS...`` in a process of its own that finds what this one does."""
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def until(is_so: Callable[[], bool]) -> None:
    """Wait for what another thread or process is about to do; fail where it never does."""
    end = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)
