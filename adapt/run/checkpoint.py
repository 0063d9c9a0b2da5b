"""Checkpoints of a run: one safetensors file, replaced whole, so a kill at any moment leaves one.

No pickle: tensors by name, and one JSON document in the file's metadata. Its metadata also has the
SHA-256 of the file, computed with zeros in place of that hash itself.
"""

from __future__ import annotations

import errno
import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...runtime.atomic import output_errors, replacing
from ...runtime.errors import TrainingError
from ...runtime.strict_json import JsonError, parse_json
from .precision import PrecisionName

Buffer = bytes | memoryview
Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_CHECKSUM = "sha256"  # key of the metadata
_NO_CHECKSUM = "0" * 64
_LARGEST_HEADER = 100_000_000  # bytes, the limit of safetensors itself


@dataclass(frozen=True)
class RunState:
    """Progress of a run between two steps, as a checkpoint keeps it."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    fingerprint: str  # of everything that decides the run; another one cannot be resumed
    stage: Count = 0
    stage_start: Count = 0  # steps done before the stage
    done: Count = 0  # steps done
    planned_steps: Count = 0  # of the whole run; a time budget lowers it
    micro_batch: Count = 0
    precision: PrecisionName | None = None  # chosen by measuring
    precision_measured: Mapping[str, Mapping[str, float | None]] | None = None
    statistics_share: float | None = None  # the target's in batch norm's, see `RunStatistics`
    statistics_why: str = ""
    elapsed_s: Seconds = 0.0
    skipped_steps: Count = 0  # steps thrown away because a loss or gradient was not finite
    bad_streak: Count = 0  # the last of them in a row
    history_bytes: Count = 0
    history_sha256: str = ""  # of as many bytes
    scaler: Mapping[str, int | float] | None = None
    watch: Mapping[str, Any] | None = None  # see `Watch.state`


_RUN_STATE = TypeAdapter(RunState)


def write_atomically(path: Path, data: bytes | Iterable[Buffer]) -> None:
    """Write a file of a run's own folder: the old one or the new one, never a part of either.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    with _replacing(path) as file:
        for part in (data,) if isinstance(data, bytes) else data:
            file.write(part)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """`replacing` in a folder that this run alone writes to."""
    with output_errors(path), replacing(path, f"{path.name}.tmp") as file:
        yield file


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


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``tensors`` to a safetensors file, whole, with its SHA-256 in its metadata.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    digest = hashlib.sha256()
    with _replacing(path) as file:
        parts = tensor_parts(tensors, {**(metadata or {}), _CHECKSUM: _NO_CHECKSUM})
        header = bytes(next(parts))
        for part in chain([header], parts):
            digest.update(part)
            file.write(part)
        file.seek(header.index(_NO_CHECKSUM.encode()))
        file.write(digest.hexdigest().encode())


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file that `write_tensors` wrote.

    Raises:
        TrainingError: the file is damaged, or another program wrote it.
    """
    try:
        problem = _checksum_problem(path)
        if problem:
            raise TrainingError(f"{path}: {problem}; delete {path.parent} and start again.")
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError, JsonError) as error:
        raise TrainingError(
            f"{path}: the run's checkpoint is damaged ({error}); delete {path.parent} and start "
            "again."
        ) from error


def open_file(path: Path) -> BufferedReader:
    """A regular file to read; a pipe in its place would wait for ever.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return path.open("rb")


def _checksum_problem(path: Path) -> str | None:
    """The fault of the file's SHA-256, a phrase; ``None``: it is what was written."""
    with open_file(path) as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > _LARGEST_HEADER:
            return "the run's checkpoint is damaged (its header)"
        header = file.read(length)
        described = parse_json(header)
        metadata = described.get("__metadata__") if isinstance(described, dict) else None
        checksum = metadata.get(_CHECKSUM) if isinstance(metadata, dict) else None
        if not isinstance(checksum, str) or len(checksum) != len(_NO_CHECKSUM):
            return "not a checkpoint of this version"
        digest = hashlib.sha256(start + header.replace(checksum.encode(), _NO_CHECKSUM.encode(), 1))
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != checksum:
        return "the run's checkpoint is damaged (its content and its SHA-256 differ)"
    return None


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: RunState) -> None:
    """Write the run's tensors and ``state``."""
    write_tensors(path, tensors, {"state": json.dumps(asdict(state))})


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], RunState]:
    """Read the tensors and the state that `save_checkpoint` wrote.

    Raises:
        TrainingError: the file is damaged or is not a checkpoint.
    """
    tensors, metadata = read_tensors(path)
    try:
        state = _RUN_STATE.validate_json(metadata["state"])
        stored = json.loads(metadata["state"])
        missing = [field.name for field in fields(RunState) if field.name not in stored]
        if missing:
            raise KeyError(missing[0])
        return tensors, state
    except (KeyError, ValidationError) as error:
        raise TrainingError(
            f"{path}: not a checkpoint of this version{_where(error)}; delete {path.parent} and "
            "start again."
        ) from error


def _where(error: KeyError | ValidationError) -> str:
    """The key that is wrong, in brackets, where there is one."""
    if isinstance(error, KeyError):
        return f" ({error.args[0]} is missing)"
    key = ".".join(map(str, error.errors()[0]["loc"]))
    return f" ({key})" if key else ""


@contextmanager
def take_back(path: Path) -> Iterator[None]:
    """Turn what a model, optimiser, stage or watch cannot load into a sentence about ``path``.

    Raises:
        TrainingError: what the file holds is not what they gave to it.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path}: does not fit this run ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason'}); delete {path.parent} "
            "and start again."
        ) from error


def prefix_hash(path: Path, size: int) -> str:
    """SHA-256 of the first ``size`` bytes of a file, in hexadecimal; a missing one is empty."""
    content = b""
    if path.exists():
        with open_file(path) as file:
            content = file.read(size)
    return hashlib.sha256(content).hexdigest()


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
