"""The checkpoint and the history of a run, which agree whenever it is killed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ...runtime.atomic import flush, output_errors
from ...runtime.errors import TrainingError
from ..run.checkpoint import RunState, load_checkpoint, prefix_hash, save_checkpoint
from ..run.workspace import Workspace
from .forward_backward import is_finite
from .resume import check_same_run


class RunFiles:
    """The two files that a run writes while it learns.

    Args:
        workspace: of the run.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._saved = time.monotonic()

    @property
    def age_s(self) -> float:
        """Seconds since the last checkpoint."""
        return time.monotonic() - self._saved

    def load(self, fingerprint: str) -> tuple[dict[str, Tensor], RunState] | None:
        """The last checkpoint, with no line in the history that is younger; None if there is none.

        Raises:
            TrainingError: it is another run's, or one of the files is damaged.
        """
        workspace = self._workspace
        if not workspace.checkpoint.exists():
            return None
        tensors, state = load_checkpoint(workspace.checkpoint)
        check_same_run(state, fingerprint, workspace.folder)
        with output_errors(workspace.history):
            if prefix_hash(workspace.history, state.history_bytes) != state.history_sha256:
                raise TrainingError(
                    f"{workspace.history}: the run's history is damaged; delete {workspace.folder} "
                    "and start again."
                )
            if workspace.history.exists():
                os.truncate(workspace.history, state.history_bytes)
        return tensors, state

    def begin(self) -> None:
        """Remove the history of a run that was never saved."""
        with output_errors(self._workspace.folder):
            self._workspace.history.unlink(missing_ok=True)

    def append(self, stage: str, step: int, losses: Mapping[str, float], lr: float) -> None:
        """Write a step down: one line of JSON; a loss that is not finite is null there."""
        line = {
            "stage": stage,
            "step": step,
            "losses": {name: value if is_finite(value) else None for name, value in losses.items()},
            "lr": lr,
        }
        path = self._workspace.history
        with output_errors(path), path.open("ab") as file:
            file.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    def save(self, tensors: Mapping[str, Tensor], state: RunState) -> RunState:
        """Write a checkpoint; gives ``state`` with the history as it stands now."""
        path, size = self._workspace.history, 0
        if path.exists():
            with output_errors(path):
                flush(path)  # or a power cut could leave fewer lines than the checkpoint counts
                size = path.stat().st_size
        state = replace(state, history_bytes=size, history_sha256=prefix_hash(path, size))
        save_checkpoint(self._workspace.checkpoint, tensors, state)
        self._saved = time.monotonic()
        return state
