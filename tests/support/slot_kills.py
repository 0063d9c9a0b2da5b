"""Kills at every call of every change of slots, from several states; the suite tries a sample.

    python tests/support/slot_kills.py [KILLS]

prints how many kills there were at each step, and ends with an error at the first broken state.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import tempfile
import time
from pathlib import Path


def main(least: int) -> None:
    """Go through all steps until there were at least so many kills."""
    path = Path(__file__).parents[1] / "runtime" / "slots" / "test_slots.py"
    spec = importlib.util.spec_from_file_location("slot_steps", path)
    assert spec is not None
    assert spec.loader is not None
    steps = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(steps)
    logging.getLogger("roadshift").setLevel(logging.ERROR)  # of stand-in plans, which none runs
    kills, started = 0, time.monotonic()
    while kills < least:
        for name, (before, step) in steps.STEPS.items():
            with tempfile.TemporaryDirectory() as folder:
                fleet = steps.Fleet(Path(folder))
                before(fleet)
                found = steps.kill_everywhere(fleet, step)
            kills += found
            print(
                f"{name}: {found} kills, {kills} in {time.monotonic() - started:.0f} s", flush=True
            )
    print(f"{kills} kills: always a verified model to run, and the audit file whole")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
