"""Resuming of a run: its identity, time spent, tone and held frames, as kept when it began."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from ...runtime.bundle import InputSpec
from ...runtime.errors import TrainingError, arg
from ..run.checkpoint import RunState, load_checkpoint
from ..run.checksums import (
    DamagedError,
    read_json_with_checksum,
    read_or_redo,
    write_json_with_checksum,
)
from ..run.workspace import Workspace


def check_same_run(state: RunState, fingerprint: str, folder: Path) -> None:
    """Refuse to go on with a run that began with something else.

    Raises:
        TrainingError: it did.
    """
    if state.fingerprint != fingerprint:
        raise TrainingError(
            f"{folder}: this run was started with other frames, settings or source model; repeat "
            f"its command with {arg('resume', True)}, or start anew with {arg('overwrite', True)}."
        )


def spent_before(workspace: Workspace, fingerprint: str) -> float:
    """Seconds that the run took until its last checkpoint; 0 where there is none.

    Raises:
        TrainingError: it is another run's, or damaged.
    """
    if not workspace.checkpoint.exists():
        return 0.0
    _, state = load_checkpoint(workspace.checkpoint)
    check_same_run(state, fingerprint, workspace.folder)
    return state.elapsed_s


def kept_tone(
    workspace: Workspace,
    fingerprint: str,
    spec: InputSpec,
    align: Callable[[], InputSpec],
    note: Callable[[str], None] = lambda _: None,
) -> InputSpec:
    """The result of ``align``, now or when this very run began.

    Args:
        spec: what the network is fed without it.
        note: told where what is kept is damaged.
    """
    stored = read_or_redo(workspace.tone, note)
    gamma = stored.get("gamma")
    known = isinstance(gamma, float) and math.isfinite(gamma) and gamma > 0
    if known and stored.get("run") == fingerprint:
        return spec.model_copy(update={"gamma": gamma})
    aligned = align()
    write_json_with_checksum(workspace.tone, {"run": fingerprint, "gamma": float(aligned.gamma)})
    return aligned


def frames_were_held(workspace: Workspace, wanted: bool) -> bool:
    """Tell whether the run set frames aside when it began; a run that begins now does as is wanted.

    Raises:
        TrainingError: what is kept is damaged.
    """
    path = workspace.held
    if not path.exists():
        write_json_with_checksum(path, {"held": wanted})
        return wanted
    try:
        return read_json_with_checksum(path)["held"] is True
    except (OSError, DamagedError, KeyError) as error:
        raise TrainingError(
            f"{path}: is damaged ({error}); delete {workspace.folder} and start again."
        ) from error
