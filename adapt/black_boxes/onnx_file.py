"""An ONNX file as a black box: of `roadshift export`, which says all of itself, or anyone's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.bundle import Bundle, InputSpec, open_bundle
from ...runtime.engines.onnx import session as onnx_session
from ...runtime.engines.onnx.graph import OnnxModel, model_problem
from ...runtime.engines.onnx.session import cpu_session, run_interruptible
from ...runtime.errors import BundleError, EngineError, LabelSpaceError, arg
from ...runtime.labels import LabelSpace
from ...runtime.probes.cores import available_cores
from ...runtime.regular_files import read_regular_file
from ...runtime.strict_json import parse_json
from .base import BlackBox, BoxWiring, Holds, Note
from .network_file import (
    AskedNetwork,
    TensorInfo,
    image_input,
    network_black_box,
)
from .reading import AnswerReader

LARGEST = 2 << 30  # bytes; protobuf holds no more
_AGAIN = "export it again"
_TYPES: Mapping[str, Any] = {
    "float": np.float32,
    "float16": np.float16,
    "double": np.float64,
    "bool": np.bool_,
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class _OnnxNetwork:
    """A session of ONNX Runtime on the CPU, as a `LoadedNetwork`."""

    def __init__(self, model: OnnxModel) -> None:
        self._session = cpu_session(model, available_cores())
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.inputs = [_tensor(told) for told in self._session.get_inputs()]
        self.outputs = [_tensor(told) for told in self._session.get_outputs()]

    def run(self, image: NDArray[np.generic], output: int) -> object:
        """See `LoadedNetwork`."""
        wanted, given = self.outputs[output].name, {self.inputs[0].name: image}
        try:
            (found,) = run_interruptible(self._session, [wanted], given)
        except Exception as error:  # ONNX Runtime has a family of its own
            raise RuntimeError(onnx_session.reason(error)) from error
        return found


def _tensor(told: Any) -> TensorInfo:
    """A tensor as ONNX Runtime tells of it; an axis of any length has a name, or none."""
    kind = told.type.removeprefix("tensor(").removesuffix(")")
    axes = [axis if isinstance(axis, int) and axis > 0 else None for axis in told.shape or ()]
    dtype = np.dtype(_TYPES[kind]) if kind in _TYPES else None
    return TensorInfo(told.name, tuple(axes) if told.shape else None, dtype)


def open_onnx(source: str, wiring: BoxWiring, space: LabelSpace | None, note: Note) -> BlackBox:
    """Open an .onnx file.

    Raises:
        EngineError: it cannot be read or run, or takes no image.
        ConfigError: it lacks something that is not given, or contradicts it.
    """
    file = Path(source)

    def read() -> bytes:
        try:
            return read_regular_file(file, LARGEST)
        except OSError as error:
            raise EngineError(f"{file}: cannot be read ({error.strerror or error}).") from error

    return _opened(read, file, None, wiring, space, note)


def open_exported(source: str, wiring: BoxWiring, space: LabelSpace | None, note: Note) -> BlackBox:
    """Open the ONNX artefact of a bundle.

    Raises:
        BundleError: it is damaged, or was not exported.
        EngineError: its artefact cannot be run.
    """
    bundle = open_bundle(source)
    artefact = bundle.artefact(kind="onnx")
    if artefact is None:
        raise BundleError(
            f"{source}: a black box answers through its ONNX artefact, and the bundle has none; "
            "run `roadshift export` on it first "
            f"({arg('logits', True)} makes its answers soft)."
        )
    return _opened(
        lambda: bundle.content(artefact), bundle.file(artefact), bundle, wiring, space, note
    )


def _opened(
    read: Callable[[], bytes],
    file: Path,
    bundle: Bundle | None,
    wiring: BoxWiring,
    space: LabelSpace | None,
    note: Note,
) -> BlackBox:
    content = read()
    digest = hashlib.sha256(content).hexdigest()
    network = _network(content, file)
    identity = digest if bundle is None else bundle.hash
    del content

    def again() -> _OnnxNetwork:
        content = read()
        if hashlib.sha256(content).hexdigest() != digest:
            raise EngineError(f"{file}: was changed while it was asked; start the run again.")
        return _network(content, file)

    if bundle is None and "roadshift.label_space" not in network.metadata:
        loaded = [network]  # the first time it is there already
        return network_black_box(
            lambda: loaded.pop() if loaded else again(), file, identity, wiring, space, note
        )
    return _of_ours(network, again, file, identity, wiring)


def _network(content: bytes, file: Path) -> _OnnxNetwork:
    if problem := model_problem(content):
        raise EngineError(f"{file}: is not a model that ONNX Runtime can run ({problem}).")
    return _OnnxNetwork(OnnxModel(content, file))


def _of_ours(
    network: _OnnxNetwork,
    load: Callable[[], _OnnxNetwork],
    file: Path,
    identity: str,
    wiring: BoxWiring,
) -> BlackBox:
    """A graph of `roadshift export`: ``image``, uint8 RGB, to ``labels``, and ``logits`` if asked.

    Its metadata name the classes and the input.
    """
    wiring.check_unused(file, "says itself what it takes and gives", ("output",))
    try:
        space = LabelSpace.from_dict(parse_json(network.metadata["roadshift.label_space"]))
        spec = InputSpec.model_validate(parse_json(network.metadata["roadshift.input"]))
    except (LabelSpaceError, KeyError, ValueError) as error:
        raise EngineError(
            f"{file}: what it says of its input and label space is malformed ({error}); {_AGAIN}."
        ) from error
    names = [output.name for output in network.outputs]
    wanted = str(wiring.output or ("logits" if "logits" in names else "labels"))
    if wanted not in names:
        raise EngineError(
            f"{file}: has no output {wanted!r} among {', '.join(names)}; "
            f"{_AGAIN if wiring.output is None else 'leave ' + arg('output') + ' out'}."
        )
    number = names.index(wanted)
    holds: Holds = "logits" if wanted == "logits" else "classes"
    image = image_input(network.inputs, file, BoxWiring())
    image = replace(image, width=spec.width, height=spec.height)
    reader = AnswerReader(space.num_classes, str(file), lambda _: None, holds=holds, advice=_AGAIN)
    asked = AskedNetwork(file, network, load, image, number, reader, _AGAIN)
    return BlackBox(asked.answer, identity, space, spec, close=asked.close)
