"""The state of a vehicle's slots: one small document, replaced whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from ..bundle import Artefact
from ..errors import SlotError
from ..signing.statement import Role, moment_of
from ..strict_json import JsonError, parse_json
from ..strict_model import Sha256, StrictModel
from ..words import shortened

Slot = Literal["a", "b"]
SLOTS: tuple[Slot, Slot] = ("a", "b")
Condition = Literal["installed", "good", "failed"]


class Installed(StrictModel):
    """The model in a slot.

    Attributes:
        hash: of its bundle, which lies in `folder`, below ``models``.
        version, role, signers: what its signatures said when it was installed.
        maker_version: of the maker's model that it was adapted from, or of itself.
        condition: "installed", "good" once it was committed, or "failed", and then ``reason``.
        plan: of TensorRT, that was built on this machine and lies beside the slots; None: none was.
        renewals: how often its signatures were exchanged for newer ones.
    """

    hash: Sha256
    version: int
    role: Role
    signers: tuple[str, ...]
    maker_version: int = 0
    condition: Condition = "installed"
    reason: str = ""
    plan: Artefact | None = None
    renewals: int = Field(default=0, ge=0)

    @property
    def folder(self) -> str:
        """The name of its folder: the hash, and a number once its signatures were renewed."""
        return f"{self.hash}.{self.renewals}" if self.renewals else self.hash

    @field_validator("plan")
    @classmethod
    def _is_plan(cls, plan: Artefact | None) -> Artefact | None:
        keys = ("flavour", "version", "gpu", "compute_capability")
        if plan is not None and not all(isinstance(plan.details.get(key), str) for key in keys):
            raise ValueError("it says not what it was built for")
        return plan


def plan_file_name(plan: Artefact) -> str:
    """The name of a plan's file: of the graph that it was built of, and of what it was built for.

    Two models of one graph and the same weights, such as one that was signed again, share it.
    """
    details = plan.details
    onnx = details.get("onnx")
    graph = onnx.get("sha256") if isinstance(onnx, dict) else None
    target = [details.get(key) for key in ("flavour", "version", "gpu", "compute_capability")]
    key = json.dumps([graph, plan.precision, *target], sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest() + ".plan"


class OnTrial(StrictModel):
    """A model that is being tried, and how many starts are left for it to become healthy."""

    slot: Slot
    starts_left: Annotated[int, Field(ge=0)]


class SlotState(StrictModel):
    """The whole state.

    Attributes:
        generation: grows by one with every change.
        active: the slot that runs; None until a first model was committed.
        trial: the other one, while it is tried.
        floor: highest version of a maker's that was committed, itself or as what a garage adapted;
            nothing up to it is installed again.
        garage_floors: highest version that was committed by the id of the garage's key that signed
            it; garages' models are to be above those, too, and makers' are not, so that no garage
            can lock a maker out by a high version.
        starts: how many starts a trial has.
        p99_ms: longest time at the 99th percentile that a frame may take the engine; None for no
            bound.
        latest: the latest time that was seen, so that a clock set back makes nothing valid again.
        record: the audit record of the change that led here.
    """

    schema_version: Literal[1] = 1
    generation: Annotated[int, Field(ge=0)] = 0
    active: Slot | None = None
    trial: OnTrial | None = None
    slots: dict[Slot, Installed] = Field(default_factory=dict)
    floor: int = 0
    garage_floors: dict[str, int] = Field(default_factory=dict)
    starts: Annotated[int, Field(ge=1)] = 3
    p99_ms: Annotated[float, Field(gt=0)] | None = None
    latest: str
    record: dict[str, JsonValue]

    @field_validator("latest")
    @classmethod
    def _is_time(cls, text: str) -> str:
        moment_of(text)
        return text

    @field_validator("record")
    @classmethod
    def _is_record(cls, record: dict[str, JsonValue]) -> dict[str, JsonValue]:
        kinds = {"n": int, "at": str, "event": str, "details": dict, "previous": str}
        found = {key: type(value) for key, value in record.items()}
        if found.pop("state", str) is not str or found != kinds:
            raise ValueError("it is no audit record")
        return record

    @model_validator(mode="after")
    def _is_consistent(self) -> SlotState:
        if self.active is not None and self.active not in self.slots:
            raise ValueError("the active slot is empty")
        if self.trial is not None and (
            self.trial.slot not in self.slots or self.trial.slot == self.active
        ):
            raise ValueError("the slot on trial is empty or active")
        return self

    @property
    def idle(self) -> Slot:
        """The slot that an installation may fill."""
        return "b" if self.active == "a" else "a"

    def model(self, slot: Slot | None) -> Installed | None:
        """The model in a slot, if there is one."""
        return self.slots.get(slot) if slot is not None else None

    def with_plan(self, slot: Slot, model: Installed, plan: Artefact) -> dict[Slot, Installed]:
        """The slots, with ``model`` in one of them; its plan is that of all that share its file."""
        name = plan_file_name(plan)
        found = {**self.slots, slot: model.model_copy(update={"plan": plan})}
        return {
            key: one.model_copy(update={"plan": plan})
            if one.plan is not None and plan_file_name(one.plan) == name
            else one
            for key, one in found.items()
        }

    def least_version(self, role: Role, revoked: Collection[str]) -> int:
        """The least version that an installation accepts of this role.

        Args:
            revoked: ids of keys that no longer count, nor what they signed.
        """
        floors = [self.floor]
        if role == "garage":
            floors += [v for key, v in self.garage_floors.items() if key not in revoked]
        return max(floors) + 1

    def committed(self, slot: Slot) -> dict[str, Any]:
        """The parts of the state that differ once the model on trial in ``slot`` runs."""
        model = self.slots[slot].model_copy(update={"condition": "good", "reason": ""})
        floors = dict(self.garage_floors)
        if model.role == "garage":
            floors |= {key: max(model.version, floors.get(key, 0)) for key in model.signers}
        of_maker = model.version if model.role == "maker" else model.maker_version
        return {
            "active": slot,
            "trial": None,
            "slots": {**self.slots, slot: model},
            "floor": max(self.floor, of_maker),
            "garage_floors": floors,
        }

    def digest(self) -> str:
        """SHA-256 of all but the record, which names it: an edit by hand shows.

        What has its default is left out, so that a later version may add what this one lacks.
        """
        said = self.model_dump(mode="json", exclude={"record"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """The content of the state's file."""
        return (json.dumps(self.model_dump(mode="json"), indent=1) + "\n").encode()


def parse_state(content: bytes, where: Path) -> SlotState:
    """The state of a file's content.

    Raises:
        SlotError: it is damaged or inconsistent.
    """
    try:
        data: Any = parse_json(content, unique_keys=True)
        return SlotState.model_validate(data)
    except JsonError as error:
        raise SlotError(
            f"{where}: is not JSON ({error}); restore it, or make slots anew."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise SlotError(
            f"{where}: invalid at {shortened(repr(key))}: {first['msg']}; restore it, or make "
            "slots anew."
        ) from error
