"""The process and the options of a command that learns: torch, priority, progress, signals."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..cli_start import STARTED
from ..runtime.errors import MissingDependencyError
from .parse import parse_duration, parse_memory

if TYPE_CHECKING:
    from ..adapt.run.options import RunOptions
    from ..runtime.arguments import ProgressUpdate


@contextmanager
def needs_torch(command: str, threads: int | None = None, nice: int = 0) -> Iterator[None]:
    """Turn a missing package of the ``adapt`` extra into a sentence.

    Args:
        threads: of torch on a CPU; None: as many as the process may use cores.
        nice: priority of this process, at most; 0 leaves it as it is.
    """
    from ..runtime.console.terminal import note

    try:
        if "torch" not in sys.modules and find_spec("torch") is not None:
            note("loading torch")  # seconds, on a busy machine many
        import_module("torch")  # first: where several are missing, it is the one to name
        from ..adapt.run.core_sharing import use_threads

        use_threads(threads)
        _give_way(nice)
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "onnx", "onnxscript", "tomli"):
            raise
        raise MissingDependencyError(
            f"roadshift {command} needs {error.name}: pip install 'roadshift[adapt]'."
        ) from error


def _give_way(nice: int) -> None:
    """Lower this process's priority to ``nice``; one that is lower already stays."""
    if os.getpriority(os.PRIO_PROCESS, 0) < nice:
        os.setpriority(os.PRIO_PROCESS, 0, nice)


@contextmanager
def run_options(
    out: Path,
    overwrite: bool,
    device: str,
    resume: bool = False,
    checkpoint_every: str = "60s",
    time_budget: str | None = None,
    memory_budget: str | None = None,
    title: str = "step",
    unit: str = "steps",
) -> Iterator[RunOptions]:
    """Options of a run that shows its progress and stops between two steps on SIGINT or SIGTERM.

    Args:
        title: of the progress.
        unit: what is shown for steps; frames that are measured are shown as frames.
    """
    from ..adapt.run.events import Events
    from ..adapt.run.options import RunOptions
    from ..runtime.console.phases import PhaseDisplay, pace
    from ..runtime.console.signals import stop_on_signals
    from ..runtime.console.terminal import note

    with stop_on_signals() as stop_requested, PhaseDisplay() as display:

        def report(step: ProgressUpdate) -> None:
            losses = " ".join(f"{name} {value:.3f}" for name, value in step.losses.items())
            said = ", ".join(filter(None, [pace(step.per_s, step.left_s), losses]))
            text = f"{step.task}: {said}" if said else step.task
            counts = unit if step.unit == "steps" else step.unit
            display.show(title, counts, step.done, step.total, text, by_tenths=True)

        def report_phase(phase: ProgressUpdate) -> None:
            text = pace(phase.per_s, phase.left_s)
            display.show(phase.task, phase.unit, phase.done, phase.total, text)

        yield RunOptions(
            out,
            overwrite,
            device,
            resume=resume,
            checkpoint_every_s=parse_duration("--checkpoint-every", checkpoint_every),
            time_budget_s=parse_duration("--time-budget", time_budget) if time_budget else None,
            began=STARTED,
            memory_budget_bytes=(
                parse_memory("--memory-budget", memory_budget) if memory_budget else None
            ),
            events=Events(note, report, report_phase, stop_requested),
        )
