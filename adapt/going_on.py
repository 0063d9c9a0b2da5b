"""The beginning of a run, as far as a resumed one keeps it besides its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from ..runtime.bundle import InputSpec
from ..runtime.errors import TrainingError
from .checkpoint import RunState, load_checkpoint
from .seals import DamagedError, read_or_redo, read_sealed_json, write_sealed_json

TONE, HELD = "tone.json", "held.json"


def check_same_run(state: RunState, fingerprint: str, workdir: Path) -> None:
    """Refuse to go on with a run that began with something else.

    Raises:
        TrainingError: it did.
    """
    if state.fingerprint != fingerprint:
        raise TrainingError(
            f"{workdir}: this run was started with other frames, settings or source model; repeat "
            "its command with --resume, or start anew with --overwrite."
        )


def spent_before(checkpoint: Path, fingerprint: str) -> float:
    """Seconds that the run of this checkpoint took so far; 0 where there is none.

    Raises:
        TrainingError: it is another run's, or damaged.
    """
    if not checkpoint.exists():
        return 0.0
    _, state = load_checkpoint(checkpoint)
    check_same_run(state, fingerprint, checkpoint.parent)
    return state.elapsed_s


def kept_tone(
    workdir: Path,
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
    path = workdir / TONE
    stored = read_or_redo(path, note)
    gamma = stored.get("gamma")
    known = isinstance(gamma, float) and math.isfinite(gamma) and gamma > 0
    if known and stored.get("run") == fingerprint:
        return spec.model_copy(update={"gamma": gamma})
    aligned = align()
    write_sealed_json(path, {"run": fingerprint, "gamma": float(aligned.gamma)})
    return aligned


def frames_were_held(workdir: Path, wanted: bool) -> bool:
    """Tell whether the run set frames aside when it began; a run that begins now does as is wanted.

    Raises:
        TrainingError: what is kept is damaged.
    """
    path = workdir / HELD
    if not path.exists():
        write_sealed_json(path, {"held": wanted})
        return wanted
    try:
        return read_sealed_json(path)["held"] is True
    except (OSError, DamagedError, KeyError) as error:
        raise TrainingError(
            f"{path}: is damaged ({error}); delete {workdir} and start again."
        ) from error
