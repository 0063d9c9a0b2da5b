"""An OpenVINO model (.xml, with its weights in the .bin of the same name) as a black box."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.engines.openvino_engine import openvino_core
from ...runtime.errors import EngineError, MissingDependencyError
from ...runtime.labels import LabelSpace
from ...runtime.probes.cores import available_cores
from ...runtime.regular_files import read_regular_file
from .base import BlackBox, BoxWiring, Note
from .network_file import TensorInfo, network_black_box, reason

LARGEST = 8 << 30  # bytes of weights


class _OpenVinoNetwork:
    """A model compiled for the CPU in float32, as a `LoadedNetwork`."""

    def __init__(self, model: Any, core: Any) -> None:
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": available_cores(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled = core.compile_model(model, "CPU", options)
        self.inputs = [_tensor(port) for port in self._compiled.inputs]
        self.outputs = [_tensor(port) for port in self._compiled.outputs]

    def run(self, image: NDArray[np.generic], output: int) -> object:
        """See `LoadedNetwork`."""
        return np.array(self._compiled([image])[output])


def _tensor(port: Any) -> TensorInfo:
    partial = port.partial_shape
    shape = None
    if not partial.rank.is_dynamic:
        shape = tuple(axis.get_length() if axis.is_static else None for axis in partial)
    try:
        dtype = np.dtype(port.element_type.to_dtype())
    except (RuntimeError, TypeError):  # of fewer than eight bits, for one
        dtype = None
    names = sorted(port.names)
    return TensorInfo(names[0] if names else port.node.friendly_name, shape, dtype)


def open_openvino(source: str, wiring: BoxWiring, space: LabelSpace | None, note: Note) -> BlackBox:
    """Open an .xml file and the .bin beside it.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        EngineError: it cannot be read or run, or takes no image.
        ConfigError: it lacks something that is not given, or contradicts it.
    """
    file = Path(source)
    identity = hashlib.sha256(b"".join(map(_digest, _contents(file)))).hexdigest()
    return network_black_box(lambda: _load(file, identity), file, identity, wiring, space, note)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _contents(file: Path) -> tuple[bytes, bytes]:
    """The graph and its weights, b"" where there is no such file."""
    weights = file.with_suffix(".bin")
    try:
        graph = read_regular_file(file, LARGEST)
        return graph, read_regular_file(weights, LARGEST) if weights.exists() else b""
    except OSError as error:
        raise EngineError(
            f"{error.filename or file}: cannot be read ({error.strerror or error})."
        ) from error


def _load(file: Path, identity: str) -> _OpenVinoNetwork:
    """The network of a file that still has that identity."""
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{file}: a black box of OpenVINO needs openvino: pip install 'roadshift[openvino]'."
        ) from error
    graph, weights = _contents(file)
    if hashlib.sha256(_digest(graph) + _digest(weights)).hexdigest() != identity:
        raise EngineError(f"{file}: was changed while it was asked; start the run again.")
    core = openvino_core(openvino)
    try:
        held = np.frombuffer(weights or b"\0", np.uint8)
        return _OpenVinoNetwork(core.read_model(graph, openvino.Tensor(held)), core)
    except Exception as error:  # OpenVINO raises RuntimeError, and what it wraps
        raise EngineError(
            f"{file}: cannot be loaded by OpenVINO ({_reason(error)}); convert it again, with its "
            f"weights in {file.with_suffix('.bin').name} beside it."
        ) from error


def _reason(error: Exception) -> str:
    """The last line of what OpenVINO says, behind the places in its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else reason(error)
