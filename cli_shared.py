"""What several commands of the command line share: options, bundles, runs, and what they print."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_start import STARTED
from .runtime.errors import ConfigError, MissingDependencyError
from .runtime.streams import reserved_stdout
from .runtime.words import counted

if TYPE_CHECKING:
    from .adapt.run_options import RunOptions
    from .runtime.bundle import Bundle
    from .runtime.engine import Engine
    from .runtime.label_maps import LabelMap
    from .runtime.labels import LabelSpace


def _one_document(context: typer.Context, wanted: bool) -> bool:
    """Leave standard output to the command's JSON document until the command ends."""
    if wanted and not context.resilient_parsing:
        context.with_resource(reserved_stdout())
    return wanted


Json = Annotated[
    bool,
    typer.Option(
        "--json", callback=_one_document, help="One JSON document on stdout, nothing else."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Backend = Annotated[
    str,
    typer.Option(
        help="auto, tensorrt, onnxruntime, onnxruntime-tensorrt, torch, torch-fp16, torch-compile."
    ),
]
BundleIn = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A model bundle (a folder).")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The bundle to write.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="PATH",
        help="Which of the things that a network of your own returns are its logits: 1, main, "
        "0.out; needed where that is not clear.",
    ),
]
Config = Annotated[Path | None, typer.Option(help="TOML file with settings.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. iapc.weight_pe=0.5."),
]
Losses = Annotated[
    str | None,
    typer.Option(help="reference, tiled or triton; unless given, what the device asks for."),
]
Seed = Annotated[int | None, typer.Option(help="Random seed; the configuration's unless given.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")]
CheckpointEvery = Annotated[str, typer.Option(help="Time between checkpoints, e.g. 60s or 5m.")]
AllowNetwork = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-network",
        metavar="PACKAGE.MODULE",
        help="Let a bundle's network run this module's code, in this command alone; may be given "
        "several times.",
    ),
]
LabelSpaceOfFiles = Annotated[
    str | None,
    typer.Option(
        "--label-space", help="Label space of the label files; the bundle's own unless given."
    ),
]
LabelMapFile = Annotated[
    Path | None,
    typer.Option(
        "--label-map",
        metavar="FILE",
        help="JSON: the model's classes as those of --label-space; built in for Cityscapes' "
        "classes, see docs/label-maps.md.",
    ),
]
Older = Annotated[
    list[str] | None,
    typer.Option(
        "--older",
        metavar="FRAMES",
        help="Frames of conditions that the incumbent serves: measure what is forgotten of them; "
        "may be given several times.",
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores unless given.")]
Nice = Annotated[
    int, typer.Option(min=0, max=19, help="Lower priority than other programs by so much.")
]
BACKGROUND = 5  # niceness of commands that learn for hours, beside whatever else the machine does


@contextmanager
def needs_torch(command: str, threads: int | None = None, nice: int = 0) -> Iterator[None]:
    """Turn a missing package of the ``adapt`` extra into a sentence.

    Args:
        threads: of torch on a CPU; None: as many as the process may use cores.
        nice: priority of this process, at most; 0 leaves it as it is.
    """
    from .runtime.terminal import note

    try:
        if "torch" not in sys.modules and find_spec("torch") is not None:
            note("loading torch")  # seconds, on a busy machine many
        import_module("torch")  # first: where several are missing, it is the one to name
        from .adapt.core_sharing import use_threads

        use_threads(threads)
        _give_way(nice)
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "onnx", "onnxscript", "tomllib"):
            raise
        raise MissingDependencyError(
            f"roadshift {command} needs {error.name}: pip install 'roadshift[adapt]' "
            "(Python 3.11 or newer)."
        ) from error


def _give_way(nice: int) -> None:
    """Lower this process's priority to ``nice``; one that is lower already stays."""
    if os.getpriority(os.PRIO_PROCESS, 0) < nice:
        os.setpriority(os.PRIO_PROCESS, 0, nice)


def made_how(row: Mapping[str, Any]) -> str:
    """Of an exported artefact: its opset, or who built or refitted a plan, and in how long."""
    if row["format"] == "onnx":
        return f"opset {row['opset']}"
    refitted = "refit_s" in row
    done = f"refitted in {row['refit_s']:.1f} s" if refitted else f"built in {row['build_s']:.0f} s"
    layers = ", ".join(f"{count} in {name}" for name, count in row["layers"].items())
    return (
        f"{done} by {row['flavour']} {row['version']} for {row['gpu']}"
        f"{f' (layers: {layers})' if layers else ''}"
    )


def listing(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Rows of equal keys, as a table or as JSON."""
    from .runtime.terminal import print_json, table

    if as_json:
        print_json(rows)
    else:
        columns = list(rows[0])
        table(title, columns, [[row[column] for column in columns] for row in rows])


def print_made(bundle: Bundle, as_json: bool) -> None:
    """What a run has made, now or before it was resumed, with the verdict where there is one."""
    from .runtime.terminal import print_json, say, verdict_table

    origin, verdict = bundle.manifest.provenance, bundle.manifest.verdict
    outcome: Any = origin.configuration.get("outcome", {})
    if as_json:
        print_json(
            {
                "bundle": str(bundle.path),
                "hash": bundle.hash,
                "method": origin.method,
                "frames": origin.frames,
                "seed": origin.seed,
                "outcome": outcome,
                "verdict": verdict.record() if verdict else None,
            }
        )
        return
    say(f"The bundle is {bundle.path} ({origin.method}).")
    if isinstance(outcome, dict) and outcome:
        say(
            f"{counted(outcome['steps'], 'step')} on {counted(origin.frames or 0, 'frame')} in "
            f"{outcome['seconds']:.0f} s, {outcome['precision']}, peak "
            f"{outcome['peak_memory_mib']:.0f} MiB, "
            f"{counted(outcome['skipped_steps'], 'step')} skipped."
        )
    if verdict is not None:
        verdict_table(verdict, **run_seconds(bundle))


def run_seconds(bundle: Bundle) -> dict[str, float]:
    """What the run that made a bundle took, and its looks at the frames set aside, for a table."""
    known = {m.name: m.value for m in bundle.manifest.measured}
    return {"run_s": known.get("run_seconds", 0.0), "watch_s": known.get("watch_seconds", 0.0)}


def opened_bundle(bundle: Path, allow: Sequence[str] | None = None) -> Bundle:
    """The bundle, with a note where its own gate did not promote it; ``--allow-network`` is said.

    Raises:
        ConfigError: what is allowed is no name of a module.
    """
    from .runtime.bundle import open_bundle
    from .runtime.terminal import note

    opened = open_bundle(bundle, allow_networks=allow or ())
    if opened.manifest.verdict and opened.manifest.verdict.warning:
        note(f"{bundle}: {opened.manifest.verdict.warning}")
    return opened


def labels_through(
    own: LabelSpace, label_space: str | None, label_map: Path | None
) -> LabelMap | None:
    """The label map of ``--label-space`` and ``--label-map``, said on stderr; None without either.

    Args:
        own: the bundle's label space.

    Raises:
        ConfigError: a map without the label space that it leads to.
        LabelSpaceError: one of the two cannot be read, or no map leads there.
    """
    from .runtime.labels import label_space as find_label_space
    from .runtime.terminal import note

    check_label_options(label_space, label_map)
    if label_space is None:
        return None
    found = own.map_to(find_label_space(label_space), label_map)
    for sentence in found.notes():
        note(sentence)
    return found


def check_label_options(label_space: str | None, label_map: Path | None) -> None:
    """ConfigError for a label map without the label space that it leads to."""
    if label_map is not None and label_space is None:
        raise ConfigError(
            f"--label-map {label_map}: leads from the bundle's classes to those of the labels; say "
            "which these are with --label-space."
        )


def import_torch_backend() -> None:
    """Make the torch engine known where the ``adapt`` extra is; exported bundles need none."""
    if sys.version_info >= (3, 11) and find_spec("torch") is not None:
        from . import adapt as _  # noqa: F401


def engine_of(
    bundle: Path,
    backend: str,
    device: str,
    artefact: str | None,
    threads: int | None,
    allow: Sequence[str] | None = None,
) -> Engine:
    """The engine asked for, on the bundle's file of that name."""
    from .runtime.engine import open_engine

    opened = opened_bundle(bundle, allow)
    named = None if artefact is None else opened.artefact(name=artefact)
    wanted = named or opened.artefact(kind="onnx")
    if backend.startswith("torch") or (
        backend == "auto" and (wanted is None or wanted.kind == "weights")
    ):
        import_torch_backend()
    return open_engine(opened, backend=backend, device=device, artefact=artefact, threads=threads)


def plain_options() -> RunOptions:
    """Options of a run that only prints its notes."""
    from .adapt.run_options import RunOptions
    from .runtime.terminal import note

    return RunOptions(fingerprint="", note=note)  # the run fills in its own


def with_losses(
    settings: list[str] | None, losses: str | None, seed: int | None = None
) -> list[str]:
    """``--set``'s settings and ``--losses``, which is one of them by another name.

    Raises:
        ConfigError: one is given twice, ``--seed`` and ``--set seed`` among them.
    """
    from .adapt.config import check_given_once

    check_given_once(settings or (), losses=losses, seed=seed)
    return [*(settings or ()), *([f"losses={losses}"] if losses else [])]


@contextmanager
def run_options(
    resume: bool,
    checkpoint_every: str,
    time_budget: str | None,
    memory_budget: str | None,
    title: str = "step",
    unit: str = "steps",
) -> Iterator[RunOptions]:
    """Options of a run that shows its progress and stops between two steps on SIGINT or SIGTERM."""
    from .adapt.run_options import Phase, Progress, RunOptions
    from .runtime.phases import PhaseDisplay, pace
    from .runtime.signals import stop_on_signals
    from .runtime.terminal import note
    from .runtime.units import parse_duration, parse_memory

    with stop_on_signals() as stop_requested, PhaseDisplay() as display:

        def report(step: Progress) -> None:
            losses = " ".join(f"{name} {value:.3f}" for name, value in step.losses.items())
            said = ", ".join(filter(None, [pace(step.steps_per_s, step.eta_s), losses]))
            text = f"{step.stage}: {said}" if said else step.stage
            display.show(title, unit, step.step, step.steps, text, by_tenths=True)

        def report_phase(phase: Phase) -> None:
            text = pace(phase.rate, phase.left_s)
            display.show(phase.title, phase.unit, phase.done, phase.total, text)

        yield RunOptions(
            fingerprint="",  # the run fills in its own
            resume=resume,
            checkpoint_every_s=parse_duration("--checkpoint-every", checkpoint_every),
            time_budget_s=parse_duration("--time-budget", time_budget) if time_budget else None,
            began=STARTED,
            memory_budget_bytes=(
                parse_memory("--memory-budget", memory_budget) if memory_budget else None
            ),
            report=report,
            report_phase=report_phase,
            note=note,
            stop_requested=stop_requested,
        )
