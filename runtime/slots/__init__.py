"""Two slots for models in a vehicle, one pointer, and a record of every change.

A new model is installed beside the one that runs, tried, and takes over only when it is healthy;
whatever stops a change, by a kill or a power cut, leaves a verified model to run.
"""

from __future__ import annotations

from .audit import AuditRecord, read_audit
from .changes import commit, roll_back, start_of_run, try_model
from .health import Health
from .install import install
from .plan_building import PlanBuilder, build_plans
from .state import SLOTS, Installed, Slot, SlotState
from .store import SlotStore, create_slots, open_slots

__all__ = [
    "SLOTS",
    "AuditRecord",
    "Health",
    "Installed",
    "PlanBuilder",
    "Slot",
    "SlotState",
    "SlotStore",
    "build_plans",
    "commit",
    "create_slots",
    "install",
    "open_slots",
    "read_audit",
    "roll_back",
    "start_of_run",
    "try_model",
]
