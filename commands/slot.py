"""`roadshift slot`: two slots for models in a vehicle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Backend, Device, Json, Threads, Topic
from .signing import BundleOrPacked, TrustFolder, damage_as_distrust

if TYPE_CHECKING:
    from ..runtime.slots import PlanBuilder, SlotState, SlotStore

slot = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Two slots for models in a vehicle: install, try, commit, roll back.",
)

_SHOWN = 100  # records of the audit file in a table

Plan = Annotated[
    str,
    typer.Option(
        "--plan",
        help="Precision of the TensorRT plan to build beside the slot: auto, that of the bundle's "
        "own plan where that does not fit this machine; or fp32, fp16, ...; none builds none.",
    ),
]
Meant = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="BUNDLE",
        help="The model that is meant, a folder or a packed file; whichever it is, unless given.",
    ),
]
Slots = Annotated[Path, typer.Option("--slots", metavar="DIR", help="The folder of the slots.")]


@slot.command()
def init(
    slots: Slots,
    starts: Annotated[
        int, typer.Option(min=1, help="Starts of a run that a model on trial has.")
    ] = 3,
    p99_ms: Annotated[
        float | None,
        typer.Option("--p99-ms", help="Longest time of a frame in the engine, 99th percentile."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a folder of two empty slots."""
    from ..runtime.slots import create_slots

    _show(create_slots(slots, starts=starts, p99_ms=p99_ms), as_json)


@slot.command()
def install(
    bundle: BundleOrPacked,
    slots: Slots,
    trust: TrustFolder,
    self_test: Annotated[
        bool, typer.Option(help="Refuse a bundle that brings no self-test.")
    ] = True,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    plan: Plan = "auto",
    then_try: Annotated[
        bool,
        typer.Option(
            "--try",
            help="Then let it be tried; where it runs or is tried already, change nothing.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Install a signed bundle, or a packed one, in the slot that does not run.

    It is verified, copied, verified again, opened here, and has to give the labels that its export
    recorded. What runs is not touched.
    """
    from ..runtime.console.terminal import note
    from ..runtime.engines import open_engine
    from ..runtime.signing import open_trust
    from ..runtime.slots import install as install_bundle
    from ..runtime.slots import open_slots, try_model

    store, trusted = open_slots(slots), open_trust(trust)
    runs_plans = backend in ("auto", "tensorrt") and device != "cpu"
    with damage_as_distrust(bundle), _plan_builder(plan if runs_plans else "none") as plans:
        installed = install_bundle(
            store,
            bundle,
            trusted,
            self_test=self_test,
            again=then_try,
            open_with=lambda found: open_engine(
                found, backend=backend, device=device, threads=threads
            ),
            plans=plans,
            note=note,
        )
    if then_try:
        try_model(store, trusted, model=installed.hash)
    _show(store, as_json)


@slot.command("try")
def try_(
    slots: Slots,
    trust: TrustFolder,
    accept_ask: Annotated[
        bool,
        typer.Option("--accept-ask", help="A person decided where the gate could not tell."),
    ] = False,
    plan: Plan = "auto",
    as_json: Json = False,
) -> None:
    """Let the installed model be tried by the run that goes on, or by the next one.

    Its TensorRT plan is built anew before, where it no longer fits this machine.
    """
    from ..runtime.signing import open_trust
    from ..runtime.slots import open_slots, try_model
    from ..runtime.slots.plan_building import build_plan_of

    store = open_slots(slots)
    trusted = open_trust(trust)
    with damage_as_distrust(slots):
        with _plan_builder(plan) as plans:
            if plans is not None:
                build_plan_of(store, trusted, store.state().idle, plans)
        try_model(store, trusted, accept_ask=accept_ask)
    _show(store, as_json)


@slot.command()
def build(slots: Slots, trust: TrustFolder, plan: Plan = "auto", as_json: Json = False) -> None:
    """Build the TensorRT plans that do not fit this machine, as after an update of its system.

    A run takes them from its next start on.
    """
    from ..runtime.console.terminal import note
    from ..runtime.signing import open_trust
    from ..runtime.slots import build_plans, open_slots

    store = open_slots(slots)
    with _plan_builder(plan) as plans:
        built = build_plans(store, open_trust(trust), plans) if plans is not None else []
    if not built:
        note("no plan was built.")
    _show(store, as_json)


@slot.command()
def commit(
    slots: Slots,
    trust: TrustFolder,
    frames: Annotated[
        list[str],
        typer.Argument(help="Frames that both models see: folders, images, videos or bags."),
    ],
    max_frames: Annotated[int, typer.Option(min=1, help="See no more of them.")] = 100,
    topic: Topic = None,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Check the health of the model on trial on these frames; let it take over, or roll it back.

    `roadshift run --slots` does so by itself, on the frames that it serves. Exit code 9: not
    healthy, rolled back.
    """
    from ..runtime.engines import open_engine
    from ..runtime.frames import open_frames
    from ..runtime.frames.source_files import with_topic
    from ..runtime.signing import open_trust
    from ..runtime.slots import commit as commit_model
    from ..runtime.slots import open_slots
    from ..runtime.slots.examination import examine

    store = open_slots(slots)
    health = examine(
        store,
        open_trust(trust),
        open_frames(with_topic(frames, topic)),
        most=max_frames,
        open_with=lambda found: open_engine(found, backend=backend, device=device, threads=threads),
    )
    commit_model(store, health)
    _show(store, as_json)


@slot.command()
def rollback(
    slots: Slots,
    reason: Annotated[str, typer.Option(help="For the audit file.")] = "by hand",
    trial: Annotated[
        bool, typer.Option("--trial", help="End a trial, and do nothing where there is none.")
    ] = False,
    model: Meant = None,
    as_json: Json = False,
) -> None:
    """End a trial; or, without one, return to the model before the one that runs.

    With --model, where that model is tried, or runs; the trial of another goes on.
    """
    from ..runtime.bundle.packed import hash_of
    from ..runtime.slots import open_slots, roll_back
    from ..runtime.slots.changes import end_trial

    store = open_slots(slots)
    hash = hash_of(model) if model is not None else None
    (end_trial if trial else roll_back)(store, reason, model=hash)
    _show(store, as_json)


@slot.command()
def wait(
    slots: Slots,
    model: Meant = None,
    timeout: Annotated[str, typer.Option(help="Longest time, e.g. 90s or 10m.")] = "10m",
    as_json: Json = False,
) -> None:
    """Wait until the run has decided about the model on trial.

    Exit code 0: it was committed. 9: it was rolled back. 1: the run has not decided in time.
    """
    from ..runtime.bundle.packed import hash_of
    from ..runtime.slots import open_slots
    from ..runtime.slots.waiting import wait_for_decision
    from .parse import parse_duration

    store = open_slots(slots)
    hash = hash_of(model) if model is not None else None
    wait_for_decision(store, parse_duration("--timeout", timeout), model=hash)
    _show(store, as_json)


@slot.command()
def clock(
    slots: Slots,
    reason: Annotated[str, typer.Option(help="For the audit file.")] = "by hand",
    as_json: Json = False,
) -> None:
    """Believe the machine's clock again, after a wrong one that was ahead let signatures expire."""
    from ..runtime.slots import open_slots
    from ..runtime.slots.changes import set_clock

    store = open_slots(slots)
    set_clock(store, reason)
    _show(store, as_json)


@slot.command()
def status(slots: Slots, as_json: Json = False) -> None:
    """Show what is in the slots, what runs, and what is tried."""
    from ..runtime.slots import open_slots

    _show(open_slots(slots), as_json)


@slot.command()
def audit(
    slots: Slots,
    last: Annotated[
        int | None, typer.Option(min=1, help="Show so many alone; a table shows 100 unless given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check the audit file from its first line to its last, and show it."""
    from dataclasses import asdict

    from ..runtime.console.terminal import note
    from ..runtime.slots import open_slots
    from .tables import listing

    most = last if last is not None or as_json else _SHOWN
    records = [asdict(one) for one in open_slots(slots).audit(most)]
    if records[0]["number"] and not as_json:
        note(f"{records[0]['number']} records before these were checked, too; --last shows more.")
    if not as_json:
        for one in records:
            one["details"] = ", ".join(f"{k}={v}" for k, v in one["details"].items())
            one["hash"] = one["hash"][:12]
    listing(f"Audit of {slots}", records, as_json)


@contextmanager
def _plan_builder(precision: str) -> Iterator[PlanBuilder | None]:
    """The builder of plans in that precision, whose progress is shown; None for "none"."""
    from ..runtime.console.phases import PhaseDisplay
    from ..runtime.console.terminal import note

    if precision == "none":
        yield None
        return
    from ..runtime.slots import PlanBuilder

    with PhaseDisplay() as display:
        yield PlanBuilder(
            precision,
            note=note,
            report=lambda done, total, text: display.show(
                "build the plan", "thousandths", done, total, text
            ),
        )


def _show(store: SlotStore, as_json: bool) -> None:
    from ..runtime.console.terminal import print_json, say, table
    from ..runtime.words import counted

    state: SlotState = store.state()
    if as_json:
        print_json({"path": str(store.path), **state.model_dump(mode="json")})
        return
    rows = [
        [
            name,
            "runs" if name == state.active else "on trial" if _on_trial(state, name) else "",
            model.hash[:12],
            model.version,
            model.role,
            model.condition,
            model.reason,
        ]
        for name, model in sorted(state.slots.items())
    ]
    if rows:
        columns = ["slot", "", "model", "version", "signed by a", "condition", "reason"]
        table(f"Slots of {store.path}", columns, rows)
    else:
        say(f"{store.path}: both slots are empty.")
    for name, model in sorted(state.slots.items()):
        if model.plan is not None:
            gpu, version = model.plan.details["gpu"], model.plan.details["version"]
            say(f"Slot {name} has a plan in {model.plan.precision} for {gpu}, TensorRT {version}.")
    if state.trial is not None:
        left = state.trial.starts_left
        said = f"{counted(left, 'start')} {'is' if left == 1 else 'are'} left"
        say(f"Slot {state.trial.slot} is on trial; {said}.")


def _on_trial(state: SlotState, name: str) -> bool:
    return state.trial is not None and state.trial.slot == name
