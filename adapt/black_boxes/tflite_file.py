"""A TensorFlow Lite model (.tflite) as a black box, float or quantised."""

from __future__ import annotations

import hashlib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import EngineError, MissingDependencyError
from ...runtime.labels import LabelSpace
from ...runtime.probes.cores import available_cores
from ...runtime.regular_files import read_regular_file
from .base import BlackBox, BoxWiring, Note
from .network_file import TensorInfo, network_black_box, reason

LARGEST = 2 << 30  # bytes; a FlatBuffer holds no more
_MAGIC = b"TFL3"  # at byte 4
_PACKAGES = (
    "ai_edge_litert.interpreter",
    "tflite_runtime.interpreter",
    "tensorflow.lite.python.interpreter",
)


class _TfliteNetwork:
    """An interpreter, as a `LoadedNetwork`."""

    def __init__(self, content: bytes, file: Path) -> None:
        interpreter = _interpreter(file)
        self._interpreter = interpreter(model_content=content, num_threads=available_cores())
        self._interpreter.allocate_tensors()
        inputs, outputs = (
            self._interpreter.get_input_details(),
            self._interpreter.get_output_details(),
        )
        self._at_input: int = inputs[0]["index"] if inputs else -1
        self._at_output: list[int] = [told["index"] for told in outputs]
        self.inputs, self.outputs = [_tensor(t) for t in inputs], [_tensor(t) for t in outputs]

    def run(self, image: NDArray[np.generic], output: int) -> object:
        """See `LoadedNetwork`."""
        asked = self._interpreter
        if list(asked.get_input_details()[0]["shape"]) != list(image.shape):
            asked.resize_tensor_input(self._at_input, image.shape)
            asked.allocate_tensors()
        asked.set_tensor(self._at_input, image)
        asked.invoke()
        return asked.get_tensor(self._at_output[output])


def _interpreter(file: Path) -> Any:
    """The class of the first installed package that runs such models."""
    for name in _PACKAGES:
        if find_spec(name.partition(".")[0]) is not None:
            return import_module(name).Interpreter
    raise MissingDependencyError(
        f"{file}: a black box of TensorFlow Lite needs ai-edge-litert: "
        "pip install 'roadshift[tflite]'."
    )


def _tensor(told: Any) -> TensorInfo:
    """A tensor as the interpreter tells of it; an axis of any length is -1."""
    shape = [int(axis) for axis in told.get("shape_signature", ())] or list(told["shape"])
    scales = told["quantization_parameters"]["scales"]
    integer = np.issubdtype(told["dtype"], np.integer)
    scale, zero_point = told["quantization"] if len(scales) == 1 and integer else (0.0, 0)
    axes = tuple(int(axis) if axis > 0 else None for axis in shape)
    return TensorInfo(told["name"], axes, np.dtype(told["dtype"]), float(scale), int(zero_point))


def open_tflite(source: str, wiring: BoxWiring, space: LabelSpace | None, note: Note) -> BlackBox:
    """Open a .tflite file.

    Raises:
        MissingDependencyError: no package that runs it is installed.
        EngineError: it cannot be read or run, or takes no image.
        ConfigError: it lacks something that is not given, or contradicts it.
    """
    file = Path(source)
    identity = hashlib.sha256(_content(file)).hexdigest()
    return network_black_box(lambda: _load(file, identity), file, identity, wiring, space, note)


def _content(file: Path) -> bytes:
    try:
        return read_regular_file(file, LARGEST)
    except OSError as error:
        raise EngineError(f"{file}: cannot be read ({error.strerror or error}).") from error


def _load(file: Path, identity: str) -> _TfliteNetwork:
    """The network of a file that still has that identity."""
    content = _content(file)
    if hashlib.sha256(content).hexdigest() != identity:
        raise EngineError(f"{file}: was changed while it was asked; start the run again.")
    if content[4:8] != _MAGIC:
        raise EngineError(f"{file}: is no TensorFlow Lite model; convert it again.")
    try:
        return _TfliteNetwork(content, file)
    except (RuntimeError, ValueError) as error:
        raise EngineError(
            f"{file}: cannot be loaded by TensorFlow Lite ({reason(error)}); convert it again, "
            "with built-in operators alone."
        ) from error
