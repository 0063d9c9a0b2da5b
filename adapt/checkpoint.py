"""Checkpoints of a run: one safetensors file, replaced whole, so a kill at any moment leaves one.

No pickle: tensors by name, and one JSON document in the file's metadata.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..runtime.atomic import output_error
from ..runtime.errors import TrainingError
from .precision import PrecisionName

Buffer = bytes | memoryview


@dataclass(frozen=True)
class RunState:
    """Where a run stands between two steps."""

    fingerprint: str  # of everything that decides the run; another one cannot be resumed
    stage: int = 0
    stage_start: int = 0  # steps done before the stage
    done: int = 0  # steps done
    planned_steps: int = 0  # of the whole run; a time budget lowers it
    micro_batch: int = 0
    precision: PrecisionName | None = None  # chosen by measuring
    precision_measured: Mapping[str, Mapping[str, float | None]] | None = None
    elapsed_s: float = 0.0
    skipped_steps: int = 0  # steps thrown away because a loss or gradient was not finite
    bad_streak: int = 0  # the last of them in a row
    history_bytes: int = 0
    scaler: Mapping[str, float] | None = None
    watch: Mapping[str, Any] | None = None  # see `Watch.state`


def write_atomically(path: Path, data: bytes | Iterable[Buffer]) -> None:
    """Write ``data`` to ``path``: the old file or the new one, never a part of either.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            for part in (data,) if isinstance(data, bytes) else data:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise output_error(error, path) from error


def tensor_parts(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Iterator[Buffer]:
    """``tensors`` as the parts of a safetensors file, in order.

    One tensor at a time is copied; safetensors' own writer copies all of them before it writes.
    """
    # The widest first, as safetensors writes them: so each is aligned.
    order = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    stop = 0
    for name, tensor in order:
        start, stop = stop, stop + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for _, tensor in order:
        yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        TrainingError: the file is damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise TrainingError(
            f"{path}: the run's checkpoint is damaged ({error}); delete {path.parent} and start "
            "again."
        ) from error


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: RunState) -> None:
    """Write the run's tensors and ``state``."""
    write_atomically(path, tensor_parts(tensors, {"state": json.dumps(asdict(state))}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], RunState]:
    """What `save_checkpoint` wrote.

    Raises:
        TrainingError: the file is damaged or is not a checkpoint.
    """
    tensors, metadata = read_tensors(path)
    try:
        return tensors, RunState(**json.loads(metadata["state"]))
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path}: not a checkpoint of this version; delete {path.parent} and start again."
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as tensors named ``<index of the parameter>.<key>``."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{i}.{key}": torch.as_tensor(value)
        for i, parameter in enumerate(parameters)
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Memory that the optimiser's moments take once it has stepped."""
    moments = 2 if isinstance(optimizer, torch.optim.AdamW) else 1
    parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    return moments * sum(p.numel() * p.element_size() for p in parameters)


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take back what `optimizer_tensors` gave."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        state: dict[str, Any] = optimizer.state[parameter]
        if key == "step":  # beside its parameter, as a fresh fused optimiser has it
            state[key] = tensor.clone().to(parameter.device)
        else:  # laid out in memory like its parameter, as a fresh optimiser has it
            state[key] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
