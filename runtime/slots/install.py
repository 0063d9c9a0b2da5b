"""Installing: a verified copy of a bundle in the slot that does not run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..atomic import flush, output_errors
from ..bundle import MANIFEST_NAME, Artefact, Bundle, open_bundle
from ..bundle.packed import named_as, unpacked
from ..engines import Engine, open_engine
from ..errors import BundleError, EngineError, SignatureError, SlotError, arg
from ..regular_files import read_regular_file
from ..signing import Trust, Verified
from ..signing.stored import check_plain, signature_files
from ..strict_json import LARGEST
from .changes import record, verified_now
from .plan_building import PlanBuilder, plan_record
from .plans import open_with_plan, with_plan
from .self_test import check_self_test
from .state import Installed, Slot, SlotState
from .store import SlotStore
from .whole import whole_model

OpenEngine = Callable[[Bundle], Engine]


def install(
    store: SlotStore,
    source: str | Path,
    trust: Trust,
    *,
    self_test: bool = True,
    again: bool = False,
    open_with: OpenEngine = open_engine,
    plans: PlanBuilder | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Installed:
    """Install a signed bundle in the slot that does not run; what runs is not touched.

    The bundle is verified, copied, and the copy verified again, so that what was checked is what is
    kept. It has to open on this machine and to give the labels that its export recorded.

    A model that is in a slot and comes with other signatures, as after an expiry was put off or a
    key exchanged, stays there with these, whether it runs or not. Its version must not fall. So
    does one of which a file in the slot was damaged: this copy takes its place. One that was
    installed with the same signatures and not tried yet stays as it is, as where the power went
    before `try_model`.

    Args:
        source: the bundle's folder, or the file of a packed one.
        self_test: whether a bundle without a self-test is refused.
        again: whether a model that runs or is tried already, with these signatures, is fine as it
            is, as for an updater that begins anew; otherwise it is refused.
        open_with: opens the engine that the self-test runs on.
        plans: builds the TensorRT plan that the bundle lacks on this machine; None: none is built.

    Returns:
        What is now in the slot.

    Raises:
        SignatureError: it is not trusted, or its version is not above what was committed before.
        SlotError: a model is being tried, this one runs or ran already with these signatures, its
            classes are others than those of the model that runs, its gate refused it, or it brings
            no self-test.
        EngineError: it does not open here, or does not give the recorded labels.
        OutputError: the disk is full, or cannot be written.
    """
    try:
        with store.installing() as incoming, unpacked(Path(source), store.path) as folder:
            with named_as(source, folder):
                if _slot_of(store.state(), open_bundle(folder).hash) is not None:
                    slot, installed, what = _renewed(store, folder, incoming, trust, again)
                    note(f"{source}: is in slot {slot} already{what}.")
                    return installed
                copied = _copied(store, folder, incoming, trust)
            with named_as(source, incoming):
                bundle, plan = _with_plan(store, copied.bundle, plans)
                with open_with_plan(open_with, bundle) as engine:
                    note(engine.reason)
                    agreement = check_self_test(bundle, engine)
            if agreement is None and self_test:
                raise SlotError(
                    f"{source}: brings no self-test; export it with {arg('self_test', True)} and "
                    f"sign it again, or install it with {arg('self_test', False)}."
                )
            return _admit(store, Path(source), incoming, trust, copied, agreement, plan)
    except (EngineError, SignatureError, SlotError, BundleError) as error:
        record(store, "refused", {"source": str(source), "reason": str(error)})
        raise


def _copied(store: SlotStore, source: Path, incoming: Path, trust: Trust) -> Verified:
    """A verified copy of a bundle that may be installed."""
    state = store.state()
    found = _verified(source, trust, state, store)
    _check_may_enter(store, state, source, found.bundle)
    copy_bundle(found.bundle, incoming)
    copied = _verified(incoming, trust, state, store)
    if copied.bundle.hash != found.bundle.hash:
        raise SlotError(f"{source}: was changed while it was copied; install it again.")
    return copied


def _with_plan(
    store: SlotStore, bundle: Bundle, plans: PlanBuilder | None
) -> tuple[Bundle, Artefact | None]:
    """The bundle and the plan that was built for it, or that another slot has."""
    plan = plans.build(store, bundle) if plans is not None else None
    if plan is None:
        return bundle, None
    incoming = store.incoming_plan
    return with_plan(bundle, plan, incoming if incoming.exists() else store.plan_file(plan)), plan


def _admit(
    store: SlotStore,
    source: Path,
    incoming: Path,
    trust: Trust,
    copied: Verified,
    agreement: float | None,
    plan: Artefact | None,
) -> Installed:
    """Put the copy in the idle slot, if nothing that matters changed meanwhile."""
    with store.changing() as state:
        _check_may_enter(store, state, source, copied.bundle)
        _check_version(copied, trust, state)  # another may have been committed meanwhile
        installed = Installed(
            hash=copied.bundle.hash,
            version=copied.version,
            role=copied.role,
            signers=copied.signers,
            maker_version=copied.maker_version,
        )
        slots = {**state.slots, state.idle: installed}
        if plan is not None:
            store.admit_plan(plan)
            slots = state.with_plan(state.idle, installed, plan)
        store.admit(incoming, installed.hash)
        details = {
            "slot": state.idle,
            **installed.model_dump(include={"hash", "version", "role", "signers"}, mode="json"),
            "self_test": agreement,
            **plan_record(plan),
        }
        store.change(state, "installed", details, slots=slots)
        return slots[state.idle]


def _slot_of(state: SlotState, hash: str) -> Slot | None:
    """The slot that holds a model which did not fail."""
    for slot, there in state.slots.items():
        if there.hash == hash and there.condition != "failed":
            return slot
    return None


def _renewed(
    store: SlotStore, source: Path, incoming: Path, trust: Trust, again: bool
) -> tuple[Slot, Installed, str]:
    """Put the copy of a model that is in a slot in its place: the same files, signed anew or whole.

    Returns:
        Its slot, what is there now, and what was done, to be added to a sentence.
    """
    found = verified_now(store, store.state(), open_bundle(source), trust)
    copy_bundle(found.bundle, incoming)
    with store.changing() as state:
        slot = _slot_of(state, found.bundle.hash)
        damage = _damage(store, state.slots[slot]) if slot is not None else None
        same = (
            slot is not None
            and damage is None
            and _signatures(incoming) == _signatures(store.folder(state.slots[slot].folder))
        )
        if slot is not None and same and _may_stay(state, slot, again):
            return slot, state.slots[slot], ", with these signatures; nothing was changed"
        _check_no_trial(store, state)
        copied = verified_now(store, state, open_bundle(incoming), trust)
        if slot is None or copied.bundle.hash != found.bundle.hash:
            raise SlotError(f"{source}: was changed while it was copied; install it again.")
        if same:
            raise SlotError(f"{source}: is in slot {slot} already, with these signatures.")
        there = state.slots[slot]
        if copied.version < there.version:
            raise SignatureError(
                f"{source}: is signed as version {copied.version}, and in slot {slot} as "
                f"{there.version}; sign it again with a version that is not below."
            )
        said = {name: getattr(copied, name) for name in ("version", "role", "signers")}
        installed = there.model_copy(
            update={
                **said,
                "maker_version": copied.maker_version,
                "renewals": there.renewals + 1,
            }
        )
        after = state.model_copy(update={"slots": {**state.slots, slot: installed}})
        parts: dict[str, Any] = {"slots": after.slots}
        if slot == state.active:
            parts |= {key: after.committed(slot)[key] for key in ("floor", "garage_floors")}
        details = {"slot": slot, "hash": installed.hash, **said}
        if damage is not None:
            details["damage"] = damage
        store.admit(incoming, installed.folder)
        store.change(state, "renewed", details, **parts)
        did = "has these signatures now" if damage is None else "was damaged, and is whole now"
        return slot, installed, f"; it {did}"


def _damage(store: SlotStore, model: Installed) -> str | None:
    """The reason why a model in a slot is not as it was installed; None: it is."""
    try:
        whole_model(store, model)
        _signatures(store.folder(model.folder))
    except (BundleError, SignatureError) as error:
        return str(error)
    except OSError as error:
        return f"its signatures cannot be read ({error.strerror})"
    return None


def _may_stay(state: SlotState, slot: Slot, again: bool) -> bool:
    """Tell whether a model that comes once more is fine as it is; the model before never is."""
    if slot == state.active or state.trial is not None:
        return again
    return state.slots[slot].condition == "installed"


def _signatures(folder: Path) -> dict[Path, bytes]:
    """The files of a bundle's signatures, by their place in it."""
    return {
        path.relative_to(folder): read_regular_file(path, LARGEST)
        for path in signature_files(folder)
    }


def _check_no_trial(store: SlotStore, state: SlotState) -> None:
    if state.trial is not None:
        raise SlotError(
            f"{store.path}: the model in slot {state.trial.slot} is being tried; commit it or roll "
            "it back first."
        )


def _check_may_enter(store: SlotStore, state: SlotState, source: Path, bundle: Bundle) -> None:
    """Refuse while a model is tried, what is there already, and what does not fit what runs."""
    _check_no_trial(store, state)
    slot = _slot_of(state, bundle.hash)
    if slot is not None:
        raise SlotError(f"{source}: is in slot {slot} already.")
    _check_fits(store, state, bundle)


def _verified(source: Path, trust: Trust, state: SlotState, store: SlotStore) -> Verified:
    """The bundle, trusted, and above the floor."""
    found = verified_now(store, state, open_bundle(source), trust)
    _check_version(found, trust, state)
    return found


def _check_version(found: Verified, trust: Trust, state: SlotState) -> None:
    least = state.least_version(found.role, trust.document.revoked.keys)
    if found.version < least:
        unsaid = "; sign it with roadshift sign, which gives it one" if not found.version else ""
        raise SignatureError(
            f"{found.bundle.path}: has version {found.version}, and nothing before {least} is "
            f"accepted of a {found.role}{unsaid}; an older model is never put back in by this way."
        )


def _check_fits(store: SlotStore, state: SlotState, bundle: Bundle) -> None:
    """Refuse what the gate refused, and classes that whoever reads the labels does not know."""
    verdict = bundle.manifest.verdict
    if verdict is not None and verdict.decision == "keep":
        raise SlotError(f"{bundle.path}: its own gate refused it: {verdict.sentence}")
    active = state.model(state.active)
    if active is None:
        return
    classes = open_bundle(store.folder(active.folder), verify=False).label_space.classes
    if tuple(bundle.label_space.classes) != tuple(classes):
        raise SlotError(
            f"{bundle.path}: has other classes than the model that runs; programs that read its "
            "labels would take one for another. Make slots of its own for it."
        )


def copy_bundle(bundle: Bundle, folder: Path) -> None:
    """Copy a bundle's files and signatures, flushed; links are refused.

    Raises:
        BundleError: a file is not the one that its manifest lists, or cannot be read.
        SignatureError: there are too many signatures, or one is no plain file.
        OutputError: the disk is full, or cannot be written.
    """
    for artefact in bundle.manifest.artefacts:
        _write(folder / artefact.path, bundle.content(artefact))
    for source in (bundle.path / MANIFEST_NAME, *signature_files(bundle.path)):
        check_plain(source)
        try:
            content = read_regular_file(source, LARGEST)
        except OSError as error:
            raise BundleError(f"{source}: cannot be read ({error.strerror}).") from error
        _write(folder / source.relative_to(bundle.path), content)
    for below, _, _ in os.walk(folder):
        flush(Path(below))


def _write(path: Path, content: bytes) -> None:
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
