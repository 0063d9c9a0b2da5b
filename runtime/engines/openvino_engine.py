"""OpenVINO on the CPU: a bundle's ONNX models, compiled for the machine that opens them.

The same files, and the same labels up to ties, as ONNX Runtime's; see `onnx.contract`.
"""

from __future__ import annotations

import io
import re
import threading
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Artefact, Bundle
from ..errors import EngineError, MissingDependencyError, arg
from ..probes.cores import available_cores
from .base import Engine
from .checks import BadAnswerError
from .onnx.contract import Answers, Port, check_contract, check_weights
from .onnx.graph import OnnxModel, read_model
from .steps import in_steps

_PLACE = re.compile(r"Exception from |^Check '|^FrontEnd API failed|failed at src/")
_CONTRACT = ("image", "labels", "logits")
_LOOPS = {"Loop", "TensorIterator"}
_LOOK_MS = 100  # for which a wait goes on before Python may handle a signal
_TYPES = {"u8": "tensor(uint8)", "f32": "tensor(float)"}


class OpenVinoEngine(Engine):
    """An ONNX artefact compiled by OpenVINO for the lowest latency of one frame on this CPU.

    Threads that share an engine take turns. Sums are in float32 unless the graph says otherwise:
    left to itself OpenVINO takes bfloat16 where the CPU has it, which changes labels.

    Args:
        bundle: says the input size and the label space.
        artefact: of kind "onnx"; only bytes with the manifest's hash are ever read.
        device: "auto" or "cpu".
        threads: of one inference; None takes the cores of this process. OpenVINO takes no more
            than there are cores.

    Raises:
        BundleError: the file is no longer the one that the manifest lists.
        EngineError: OpenVINO refuses the model, or `OnnxEngine` would.
        MissingDependencyError: openvino is not installed.
    """

    def __init__(
        self,
        bundle: Bundle,
        artefact: Artefact,
        *,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        if device == "cuda":
            raise EngineError(
                f"{arg('backend', 'openvino')} runs on the CPU; leave {arg('device')}, or use "
                f"{arg('backend', 'onnxruntime')} on a GPU."
            )
        model = read_model(bundle, artefact)
        check_weights(model)
        openvino = load_openvino()
        settings = settings_for(artefact, threads or available_cores())
        self._compiled = _compiled(openvino, model, settings)
        self._threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        self._answers = Answers(bundle, artefact, self._threads)
        self._batch = check_contract(
            _ports(self._compiled.inputs),
            _ports(self._compiled.outputs),
            model.file,
            bundle,
            self._answers.output,
        )
        self._tensor = openvino.Tensor
        self._request: Any = self._compiled.create_infer_request()
        self._lock = threading.Lock()  # of the request, and of what it gave until that is copied
        self._file = model.file
        precision = artefact.precision or "unknown precision"
        super().__init__(
            bundle.label_space,
            bundle.manifest.input,
            backend="openvino",
            precision=artefact.precision or "unknown",
            device="cpu",
            artefact=artefact.path,
            reason=(
                f"openvino {openvino.get_version().split('-')[0]} runs {artefact.path} "
                f"({precision}) on the CPU with {self._threads} threads: as asked."
            ),
        )

    def _infer(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return in_steps(self._run, batch, self._batch)

    def _run(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with self._lock:
            if self._request is None:
                raise EngineError(f"{self._file}: the engine was closed; open it again.")
            found = self._found(self._request, batch)
        return self._answers.labels(found, batch)

    def _found(self, request: Any, batch: NDArray[np.uint8]) -> NDArray[Any]:
        """A copy of what the model gives; a signal or `interrupt` ends it early."""
        try:
            request.set_tensor("image", self._tensor(batch, shared_memory=True))
            try:
                request.start_async()
                while not request.wait_for(_LOOK_MS):
                    pass
            except BaseException:
                request.cancel()
                with suppress(Exception):  # that it was cancelled; unless asked, it runs to its end
                    request.wait()
                raise
            return np.array(request.get_tensor(self._answers.output).data)
        except Exception as error:  # OpenVINO's have no common base but this
            if "cancel" in str(error).lower():
                raise BadAnswerError("was interrupted", advice="run it again") from error
            raise BadAnswerError(f"fails while running ({reason(error)})") from error

    def interrupt(self) -> bool:
        request = self._request
        if request is not None:
            request.cancel()
        return True

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "threads": self._threads}

    def close(self) -> None:
        with self._lock:
            self._request = self._compiled = None


def load_openvino() -> Any:
    """The package.

    Raises:
        MissingDependencyError: it is not installed, or does not import.
    """
    try:
        import openvino
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise
        raise MissingDependencyError(
            "openvino is not installed; pip install 'roadshift[openvino]'."
        ) from error
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"openvino does not import ({error}); uninstall it, then pip install "
            "'roadshift[openvino]'."
        ) from error
    return openvino


@cache
def openvino_core(openvino: Any) -> Any:
    """OpenVINO's ``Core``, one for as long as the process lives.

    With the last one OpenVINO unloads its CPU plugin, which gave the thread that loaded it a stack
    for signals. Unloaded by another thread, it frees that stack and leaves it in use, so that the
    next signal, as of Ctrl-C, would end the process by SIGSEGV.
    """
    return openvino.Core()


def settings_for(artefact: Artefact, threads: int) -> dict[str, Any]:
    """OpenVINO's settings for an artefact.

    Symmetric INT8, which is for TensorRT, is computed as the graph says, in float32 between its
    rounded values: OpenVINO's own integers gave other labels than the graph on 6 % of the pixels of
    a SegFormer. Those of ``int8-cpu`` did not.
    """
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,  # other programs want the cores too, an adaptation for one
    }
    if artefact.precision == "int8" and artefact.target != "onnxruntime-cpu":
        settings["LP_TRANSFORMS_MODE"] = False
    return settings


def _compiled(openvino: Any, model: OnnxModel, settings: dict[str, Any]) -> Any:
    """The model compiled for this CPU; EngineError where OpenVINO refuses it."""
    try:
        # By its name: a reader that OpenVINO chooses might take the bytes for another format.
        reader = openvino.frontend.FrontEndManager().load_by_framework("onnx")
        graph = reader.convert(reader.load(io.BytesIO(model.content)))
        if loops := {op.get_type_name() for op in graph.get_ops()} & _LOOPS:
            raise EngineError(
                f"{model.file} has a {loops.pop()}, which OpenVINO does not stop where it never "
                f"ends; use {arg('backend', 'onnxruntime')}."
            )
        return openvino_core(openvino).compile_model(graph, "CPU", settings)
    except EngineError:
        raise
    except Exception as error:  # OpenVINO's have no common base but this
        raise EngineError(
            f"{model.file} cannot be loaded by OpenVINO ({reason(error)}); use "
            f"{arg('backend', 'onnxruntime')}."
        ) from error


def _ports(values: Any) -> dict[str, Port]:
    """Inputs or outputs by name, as `check_contract` takes them.

    OpenVINO gives a value the names of all that it finds to be the same, as a Cast to its own type.
    """
    found = {}
    for value in values:
        name = next((name for name in _CONTRACT if name in value.get_names()), value.any_name)
        kind = value.element_type.get_type_name()
        shape = [size.get_length() if size.is_static else None for size in value.partial_shape]
        found[name] = Port(_TYPES.get(kind, kind), shape)
    return found


def reason(error: Exception) -> str:
    """The sentence of an exception of OpenVINO, without its source's places.

    Of a conversion's log, the summary: "No conversion rule found for operations: your.Operator".
    """
    lines = [line.strip() for line in str(error).splitlines()]
    start = lines.index("Summary:") + 1 if "Summary:" in lines else len(lines)
    summary = [line.removeprefix("-- ") for line in lines[start:]]
    told = [line for line in (*summary, *lines) if line and not _PLACE.search(line)]
    return (told or [type(error).__name__])[0].rstrip(".: ")
