"""ONNX Runtime, on the CPU or on CUDA, and never on another device than it says.

The model takes ``image``, (1, H, W, 3) uint8 RGB, and gives ``labels``, (1, H, W) uint8: colour
order, normalisation, resizing and argmax are in the graph. Where the argmax was left to the runtime
(``details["argmax"]`` is "runtime"), it gives ``logits`` instead, (1, K, h, w) float32 at the
network's stride. Another batch size, or an open one, is fine too.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .bundle import Artefact, Bundle
from .cores import available_cores
from .driver import driver_problem
from .engine import Engine
from .errors import EngineError
from .upsample import upsample_argmax

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxEngine(Engine):
    """An ONNX artefact in one ONNX Runtime session; on CUDA with memory bound once.

    Args:
        bundle: says the input size and the label space.
        artefact: of kind "onnx".
        device: "cpu"; "cuda", or an error where CUDA does not work; "auto", CUDA where it works.
        threads: CPU threads inside an operator; None takes the cores of this process.

    Raises:
        EngineError: the model is damaged, does not keep the contract above or does not fit the
            manifest, or CUDA was asked for and does not work (the message says why).
    """

    def __init__(
        self,
        bundle: Bundle,
        artefact: Artefact,
        *,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        file = bundle.file(artefact)
        self._threads = threads or available_cores()
        problem = None if device == "cpu" else cuda_problem()
        session = None
        if device != "cpu" and problem is None:
            session, problem = _cuda_session(file, self._threads)
        if session is None and device == "cuda":
            raise EngineError(
                f"{file.name} cannot run on CUDA: {problem}; use --device cpu, or see "
                "`roadshift doctor` for what is missing."
            )
        uses_cuda = session is not None
        self._session = session or _session(file, self._threads, _CPU)
        # Whether the outer logits lie on the outer pixels; None where the graph ends in labels.
        self._align_corners = (
            bool(artefact.details.get("align_corners"))
            if artefact.details.get("argmax") == "runtime"
            else None
        )
        self._output = "labels" if self._align_corners is None else "logits"
        self._batch = _check_contract(self._session, file, bundle, self._output)
        why = "as asked" if device != "auto" else problem or "a CUDA driver and device were found"
        super().__init__(
            bundle.label_space,
            bundle.manifest.input,
            backend="onnxruntime",
            precision=artefact.precision or "unknown",
            device="cuda" if uses_cuda else "cpu",
            artefact=artefact.path,
            reason=(
                f"onnxruntime {onnxruntime.__version__} runs {artefact.path} "
                f"({artefact.precision or 'unknown precision'}) on "
                f"{'CUDA' if uses_cuda else f'the CPU with {self._threads} threads'}: {why}."
            ),
        )
        self._binding = (
            _CudaBinding(self._session, self._shape(), self._output) if uses_cuda else None
        )

    def _shape(self) -> tuple[int, int, int, int]:
        return (self._batch or 1, self.input.height, self.input.width, 3)

    def _infer(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        step = self._batch or (1 if self._binding else len(batch))
        parts = []
        for start in range(0, len(batch), step):
            part = np.ascontiguousarray(batch[start : start + step])
            kept = len(part)
            if kept < step:  # fill a fixed batch with copies of its last frame
                part = np.concatenate([part, np.repeat(part[-1:], step - kept, axis=0)])
            parts.append(self._run(part)[:kept])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._binding is not None:
            found = self._binding.run(batch)
        else:
            found = self._session.run([self._output], {"image": batch})[0]
        if self._align_corners is None:
            return found
        size = self.input.width, self.input.height
        return np.stack([upsample_argmax(logits, *size, self._align_corners) for logits in found])

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "threads": self._threads}

    def close(self) -> None:
        self._binding = None
        self._session = None


class _CudaBinding:
    """Input and output in device memory, bound to the session once and reused by every run."""

    def __init__(self, session: Any, shape: tuple[int, int, int, int], output: str) -> None:
        self._session = session
        self._image = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.uint8), "cuda", 0)
        given = next(value for value in session.get_outputs() if value.name == output)
        dtype = np.uint8 if output == "labels" else np.float32
        self._found = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            [shape[0], *given.shape[1:]], dtype, "cuda", 0
        )
        self._io = session.io_binding()
        self._io.bind_ortvalue_input("image", self._image)
        self._io.bind_ortvalue_output(output, self._found)

    def run(self, batch: NDArray[np.uint8]) -> NDArray[Any]:
        self._image.update_inplace(batch)
        self._session.run_with_iobinding(self._io)
        found: NDArray[Any] = self._found.numpy()  # a copy on the host
        return found


def cuda_problem() -> str | None:
    """Why ONNX Runtime cannot use CUDA here, as far as can be told without a session; or None.

    ONNX Runtime lists its CUDA provider on machines without a GPU too, so the driver is asked.
    """
    if _CUDA not in onnxruntime.get_available_providers():
        return "this onnxruntime was built without CUDA (pip install onnxruntime-gpu)"
    return driver_problem()


def _cuda_session(file: Path, threads: int) -> tuple[Any, str | None]:
    """A session whose every node runs on CUDA, or None and the reason why there is none."""
    said = io.StringIO()
    with redirect_stdout(said), _captured_stderr() as complaints:
        onnxruntime.preload_dlls()  # prints, instead of raising, what it does not find
        try:
            session = _session(file, threads, _CUDA)
        except EngineError as error:
            problem = str(error)
        else:
            if session.get_providers()[0] == _CUDA:
                return session, None
            problem = "ONNX Runtime fell back to the CPU"
    missing = re.search(r"\S+\.so[\w.]*: cannot open shared object file", complaints())
    hint = "pip install 'roadshift[cuda]'"
    return None, f"a library is missing ({missing[0]}); {hint}" if missing else problem


@contextmanager
def _captured_stderr() -> Iterator[Any]:
    """Collect what native code writes to standard error; yields a function that returns it."""
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        text = ""

        def captured() -> str:
            return text

        try:
            yield captured
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            text = file.read().decode(errors="replace")


def _session(file: Path, threads: int, provider: str) -> Any:
    """A session on exactly one provider; EngineError where the model or the provider fails."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    chosen: Any = provider
    if provider == _CUDA:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        chosen = (provider, {"use_tf32": "0"})  # fp32 means fp32
    try:
        return onnxruntime.InferenceSession(
            str(file), options, providers=[chosen], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        reason = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)).splitlines()[0]
        raise EngineError(
            f"{file} cannot be loaded by ONNX Runtime ({reason.rstrip('.')}); export it again."
        ) from error


def _check_contract(session: Any, file: Path, bundle: Bundle, output: str) -> int | None:
    """The batch size of the model, None if open; EngineError if the model is not as described."""
    spec = bundle.manifest.input
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    if list(inputs) != ["image"] or output not in outputs:
        raise EngineError(
            f"{file} takes {', '.join(inputs)} and gives {', '.join(outputs)}, and an engine needs "
            f"a model from 'image' to '{output}'; export the bundle again."
        )
    batch, *size = inputs["image"].shape
    wanted = [spec.height, spec.width, 3]
    kind = "uint8" if output == "labels" else "float"
    types = (inputs["image"].type, outputs[output].type)
    fits = len(size) == 3 and all(
        not isinstance(got, int) or got == need for got, need in zip(size, wanted, strict=True)
    )
    if not fits or types != ("tensor(uint8)", f"tensor({kind})"):
        raise EngineError(
            f"{file} takes {types[0]} {inputs['image'].shape} and gives {types[1]}, but the "
            f"manifest says uint8 frames of {spec.width}x{spec.height}, (1, {spec.height}, "
            f"{spec.width}, 3), to {kind} {output}; export the bundle again."
        )
    classes = bundle.label_space.num_classes
    shape = outputs[output].shape
    if output == "logits" and (len(shape) != 4 or shape[1] not in (classes, None)):
        raise EngineError(
            f"{file} gives logits {shape}, and the {classes} classes of "
            f"{bundle.label_space.name!r} need (1, {classes}, h, w); export the bundle again."
        )
    return batch if isinstance(batch, int) else None
