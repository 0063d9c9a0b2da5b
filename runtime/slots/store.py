"""The folder of a vehicle's slots.

    state.json     which slot runs, what is in each, what is tried; replaced by one rename
    audit.jsonl    every change, a line each, chained by hashes
    models/HASH/   the bundles, never changed once they have their name (HASH.N/ after N renewals of
                   the signatures)
    plans/         TensorRT plans that were built here, see `plans`
    lock           held while something is changed
    install.lock   held by the one program that installs; others change the state meanwhile
    trial.lock     held by the one run that lets a model on trial see frames

A change is one new ``state.json``. It carries the audit record of the change, which is appended
after; where a kill comes between, the next program that changes something appends it. Bundles that
no state names are left by a kill, and removed then, too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..atomic import flush, give_name, output_error, output_errors, replacing
from ..bundle import Artefact
from ..errors import SlotError
from ..given import above_zero, path_of, whole_of
from ..printable import encodable
from ..regular_files import read_regular_file
from ..signing.statement import moment_of, text_of
from .audit import AuditRecord, append_missing, hash_of, new_record, read_audit, record_line
from .state import SlotState, parse_state, plan_file_name

STATE_NAME = "state.json"
MODELS = "models"
PLANS = "plans"
TIMINGS = "timings"  # in PLANS: how long kernels took, for the next build

PATIENCE_S = 30.0  # that a change waits for another program's

_LOCK = "lock"
_INSTALL_LOCK = "install.lock"
_TRIAL_LOCK = "trial.lock"
_POLL_S = 0.02
_LARGEST = 1 << 20
_INCOMING = ".incoming"
_PART = ".state.json.part"


@dataclass(frozen=True)
class SlotStore:
    """A folder of slots; `state` reads it anew at every call."""

    path: Path

    def state(self) -> SlotState:
        """The state as it is now.

        Raises:
            SlotError: the folder holds no slots, or its state is damaged.
        """
        where = self.path / STATE_NAME
        try:
            return parse_state(read_regular_file(where, _LARGEST), where)
        except FileNotFoundError as error:
            raise SlotError(
                f"{self.path}: holds no slots; make them with roadshift slot init."
            ) from error
        except OSError as error:
            raise SlotError(f"{where}: cannot be read ({error.strerror}).") from error

    def folder(self, name: str) -> Path:
        """The folder of a model, by `Installed.folder`."""
        return self.path / MODELS / name

    def plan_file(self, plan: Artefact) -> Path:
        """The file of a plan that was built here."""
        return self.path / PLANS / plan_file_name(plan)

    @contextmanager
    def changing(self, patience_s: float | None = None) -> Iterator[SlotState]:
        """Hold the lock; the state before the change, after what a kill left was put in order.

        Args:
            patience_s: how long to wait for another program; `PATIENCE_S` unless given.

        Raises:
            SlotError: another program holds it for longer, or the state is damaged or was edited.
            OutputError: the folder cannot be written.
        """
        with self._locked(_LOCK, PATIENCE_S if patience_s is None else patience_s):
            state = self._unedited()
            append_missing(self.path, state.record)
            self._remove_leftovers(state)
            yield state

    def change(
        self, before: SlotState, event: str, details: dict[str, Any], **parts: Any
    ) -> SlotState:
        """Write the next state, with ``parts`` that differ, and its audit record.

        Raises:
            OutputError: the folder cannot be written; the state is still ``before``.
        """
        now = self.now(before)
        after = SlotState.model_validate(
            encodable(  # a reason may name a folder whose name is no UTF-8
                {
                    "latest": text_of(now),
                    **before.model_dump(mode="json", exclude={"latest"}),
                    **{name: _plain(value) for name, value in parts.items()},
                    "generation": before.generation + 1,
                }
            )
        )
        record = new_record(before.record, event, encodable(details), now, after.digest())
        after = after.model_copy(update={"record": record})
        _write_state(self.path, after)
        append_missing(self.path, after.record)
        self._remove_leftovers(after)
        return after

    def audit(self, most: int | None = None) -> list[AuditRecord]:
        """The records, or the last ``most`` of them, after the whole file was checked.

        Each is checked against the one before, and the last against the state; memory is needed for
        the records that are given alone.

        Raises:
            SlotError: the chain is broken, or the file does not end with the last change.
        """
        known, found = self._unedited().record, False
        records = deque[AuditRecord](maxlen=most)
        for record in read_audit(self.path):
            records.append(record)
            found = found or (
                record.number == known["n"] and record.hash == hash_of(record_line(known))
            )
        # Others may have appended meanwhile, each after the state that says so.
        if not found or records[-1].number > int(str(self.state().record["n"])):
            raise SlotError(
                f"{self.path}: the audit file does not end with the last change; it was changed or "
                "cut, or a kill came in between: then the next change completes it."
            )
        return list(records)

    def now(self, state: SlotState) -> datetime:
        """The time, which never goes back behind what the state has seen."""
        return max(datetime.now(timezone.utc), moment_of(state.latest))

    @contextmanager
    def installing(self) -> Iterator[Path]:
        """An empty folder for a model on its way in, for one program at a time.

        Raises:
            SlotError: another program is installing, or the state was edited.
            OutputError: the folder cannot be made.
        """
        with self._locked(_INSTALL_LOCK, 0.0):
            self._unedited()
            folder = self.path / MODELS / _INCOMING
            shutil.rmtree(folder, ignore_errors=True)
            with output_errors(folder):
                folder.mkdir(parents=True)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    @property
    def incoming_plan(self) -> Path:
        """The file of a plan on its way in, of whoever is installing or building."""
        return self.path / PLANS / _INCOMING

    @contextmanager
    def building(self) -> Iterator[None]:
        """Keep other programs from installing and building.

        Raises:
            SlotError: another one is at it, or the state was edited.
        """
        with self._locked(_INSTALL_LOCK, 0.0):
            self._unedited()
            yield

    def conducting(self) -> int | None:
        """The trial's lock as an open file, or None where another run has it or none may write.

        The run that has it lets a model on trial see frames, and decides; it has it until the file
        is closed.
        """
        try:
            descriptor = os.open(
                self.path / _TRIAL_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
        except OSError:
            return None
        if _lock(descriptor, self.path):
            return descriptor
        os.close(descriptor)
        return None

    def admit(self, incoming: Path, name: str) -> None:
        """Give a flushed model its name; one of that name, which is the same, is replaced."""
        target = self.folder(name)
        with output_errors(target):
            if target.exists():
                shutil.rmtree(target)
            give_name(incoming, target)
            flush(target.parent)

    def admit_plan(self, plan: Artefact) -> None:
        """Give a flushed plan its name, if one is on its way in; one of that name is replaced."""
        target = self.plan_file(plan)
        with output_errors(target):
            if self.incoming_plan.exists():
                give_name(self.incoming_plan, target)
                flush(target.parent)

    def _unedited(self) -> SlotState:
        """The state, which is the one that its record names.

        One rename writes both, so that no kill parts them.

        Raises:
            SlotError: it is not.
        """
        state = self.state()
        if state.record.get("state") not in (None, state.digest()):
            raise SlotError(
                f"{self.path / STATE_NAME}: was changed by something else than roadshift after its "
                f"last change ({state.record['at']}), so that no change is made any more; restore "
                "it as it was, or make slots anew."
            )
        return state

    @contextmanager
    def _locked(self, name: str, patience_s: float) -> Iterator[None]:
        if not (self.path / STATE_NAME).exists():
            self.state()  # says so
        with output_errors(self.path):
            descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            until = time.monotonic() + patience_s
            while not _lock(descriptor, self.path):
                if time.monotonic() >= until:
                    raise SlotError(
                        f"{self.path}: another program is changing these slots; wait for it."
                    )
                time.sleep(_POLL_S)
            yield
        finally:
            os.close(descriptor)

    def _remove_leftovers(self, state: SlotState) -> None:
        """Remove what no slot holds; a failure to do so is left to the next change."""
        slots = state.slots.values()
        named = {installed.folder for installed in slots}
        with suppress(OSError):
            for path in (self.path / MODELS).iterdir():
                if path.name not in named and path.name != _INCOMING:
                    shutil.rmtree(path, ignore_errors=True)
        plans = {plan_file_name(one.plan) for one in slots if one.plan is not None}
        with suppress(OSError):
            for path in (self.path / PLANS).glob("*.plan"):
                if path.name not in plans:
                    path.unlink(missing_ok=True)


def create_slots(path: str | Path, *, starts: int = 3, p99_ms: float | None = None) -> SlotStore:
    """Make a folder of two empty slots.

    Args:
        starts: how many starts of a run a model on trial has to become healthy.
        p99_ms: longest time at the 99th percentile that a frame may take the engine.

    Raises:
        SlotError: there are slots already.
        ConfigError: a value is out of range.
        OutputError: the folder cannot be made.
    """
    path = path_of("path", path)
    if (path / STATE_NAME).exists():
        raise SlotError(f"{path}: holds slots already; see roadshift slot status.")
    whole_of("starts", starts)
    above_zero("p99_ms", p99_ms)
    now = datetime.now(timezone.utc)
    details = {"starts": starts, "p99_ms": p99_ms}
    record = new_record(None, "created", details, now)
    state = SlotState(starts=starts, p99_ms=p99_ms, latest=text_of(now), record=record)
    state = state.model_copy(
        update={"record": new_record(None, "created", details, now, state.digest())}
    )
    with output_errors(path):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)  # by nobody else, see `plans`
        (path / MODELS).mkdir(exist_ok=True)
    _write_state(path, state)
    append_missing(path, state.record)
    return SlotStore(path)


def open_slots(path: str | Path) -> SlotStore:
    """The slots of a folder, read once to see that they are whole.

    Raises:
        SlotError: there are none, or their state is damaged.
    """
    store = SlotStore(path_of("path", path))
    store.state()
    return store


def _plain(value: Any) -> Any:
    """A part of a state as JSON values."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value


def _lock(descriptor: int, where: Path) -> bool:
    """Try to lock an open file; False where another program has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise output_error(error, where) from error
    return True


def _write_state(folder: Path, state: SlotState) -> None:
    path = folder / STATE_NAME
    with output_errors(path):
        with replacing(path, _PART) as file:
            os.fchmod(file.fileno(), 0o644)  # whatever the umask: it names plans, which are code
            file.write(state.to_bytes())
        flush(folder)
