"""ONNX Runtime, on the CPU, on CUDA or on TensorRT, and never on another device than it says.

The model takes ``image``, (1, H, W, 3) uint8 RGB, and gives ``labels``, (1, H, W) uint8: colour
order, normalisation, resizing and argmax are in the graph. Where the argmax was left to the runtime
(``details["argmax"]`` is "runtime"), it gives ``logits`` instead, (1, K, h, w) float32 at the
network's stride. Another batch size, or an open one, is fine too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ...bundle import Artefact, Bundle
from ...errors import EngineError, MissingDependencyError, arg
from ...gentle import in_a_gap
from ...probes.cores import available_cores
from ...probes.waiting import waiting
from ..base import Engine
from ..checks import BadAnswerError
from ..cuda import Cuda
from ..steps import in_steps
from ..upsample_cuda import UpsampleKernel
from .contract import Answers, Port, check_contract, check_weights
from .cpu import SharedCpuSession
from .graph import OnnxModel, read_model
from .memory import DeviceMemory, PinnedMemory, PlainMemory
from .session import (
    cpu_session,
    cuda_problem,
    cuda_session,
    reason,
    run_interruptible,
    tensorrt_problem,
    tensorrt_session,
)

_WARM_UP = 3  # runs: the first allocates, the second is captured as a graph, the third launches it


class OnnxEngine(Engine):
    """An ONNX artefact in one ONNX Runtime session; on a GPU with memory bound once.

    On CUDA the model runs as one CUDA graph where it can be captured; `describe` says whether.
    Any number of threads may call an engine: on the CPU they run at the same time, on a GPU one
    after the other, all in one thread of the engine's own, since ONNX Runtime captures a graph for
    the thread that calls it. ``stage_ms`` is then of whichever ran last.

    Args:
        bundle: says the input size and the label space.
        artefact: of kind "onnx".
        device: "cpu"; "cuda", or an error where CUDA does not work; "auto", CUDA where it works.
        threads: CPU threads inside an operator; None takes the cores of this process.
        tensorrt: run on ONNX Runtime's TensorRT provider, or an error where that does not work. It
            builds its engines at the first opening, which takes minutes, and keeps them under
            ``$XDG_CACHE_HOME/roadshift``.

    Raises:
        BundleError: the file is no longer the one that the manifest lists.
        EngineError: the model is damaged, does not keep the contract above or does not fit the
            manifest, has weights that are NaN, or needs more than its own bytes; or a GPU was asked
            for and does not work (the message says why).
    """

    def __init__(
        self,
        bundle: Bundle,
        artefact: Artefact,
        *,
        device: str = "auto",
        threads: int | None = None,
        tensorrt: bool = False,
    ) -> None:
        model = read_model(bundle, artefact)
        self._file = model.file
        self._threads = threads or available_cores()
        self._worker: ThreadPoolExecutor | None = None  # its one thread does all that is CUDA's
        self._answers = Answers(bundle, artefact, self._threads)
        self._output = self._answers.output
        self._made: bool | None = None  # see `Answers.labels`
        self._session: Any = None
        self._under_way: set[Any] = set()  # run options of the calls on the CPU
        self._lock = threading.Lock()  # of these
        self._call: Callable[..., Any] = self._first_call
        self._memory: DeviceMemory | None = None
        self._batch: int | None = None
        how, problem = "", None
        in_a_gap()
        check_weights(model)
        if device != "cpu" or tensorrt:
            problem = self._no_gpu(device, tensorrt)
        if device != "cpu" and problem is None:
            self._worker = ThreadPoolExecutor(1, "onnxruntime-gpu")
            try:
                how = self._worker.submit(
                    self._open_gpu, bundle, artefact, model, tensorrt
                ).result()
            except EngineError as error:
                problem = str(error)
            finally:
                if self._memory is None:
                    self._worker.shutdown()
        if problem is not None and (device == "cuda" or tensorrt):
            raise EngineError(
                f"{self._file.name} cannot run on {'TensorRT' if tensorrt else 'CUDA'}: {problem}; "
                f"use {arg('device', 'cpu')}, or see `roadshift doctor` for what is missing."
            )
        if self._memory is None:
            self._session = cpu_session(
                model,
                self._threads,
                fp8=artefact.precision == "fp8",
                again=lambda: read_model(bundle, artefact),
            )
            self._batch = _check_contract(self._session, self._file, bundle, self._output)
            how = f"the CPU with {self._threads} threads"
        why = "as asked" if device != "auto" else problem or "a CUDA driver and device were found"
        super().__init__(
            bundle.label_space,
            bundle.manifest.input,
            backend="onnxruntime-tensorrt" if tensorrt else "onnxruntime",
            precision=artefact.precision or "unknown",
            device="cpu" if self._memory is None else "cuda",
            artefact=artefact.path,
            reason=(
                f"onnxruntime {onnxruntime.__version__} runs {artefact.path} "
                f"({artefact.precision or 'unknown precision'}) on {how}: {why}."
            ),
        )

    @staticmethod
    def _no_gpu(device: str, tensorrt: bool) -> str | None:
        if device == "cpu":
            return "it needs a GPU"
        return tensorrt_problem() if tensorrt else cuda_problem()

    def _open_gpu(
        self, bundle: Bundle, artefact: Artefact, model: OnnxModel, tensorrt: bool
    ) -> str:
        """Open a session on the GPU and run it a few times; what it runs on, in words."""
        if tensorrt:
            cache = _cache_folder() / "onnxruntime-tensorrt" / artefact.sha256[:16]
            return self._start(
                bundle,
                "TensorRT",
                lambda stream: tensorrt_session(model, self._threads, cache, stream=stream),
            )
        try:
            return self._start(
                bundle,
                "CUDA, as one CUDA graph",
                lambda stream: cuda_session(model, self._threads, stream=stream, graph=True),
            )
        except EngineError as error:
            why = str(error).rstrip(".")
        words = self._start(
            bundle,
            "CUDA, kernel by kernel",
            lambda stream: cuda_session(model, self._threads, stream=stream, graph=False),
        )
        return f"{words} (not as a graph: {why})"

    def _start(self, bundle: Bundle, words: str, make: Callable[[int | None], Any]) -> str:
        """Make a session and its memory and run it; nothing is left of them where that fails."""
        cuda = None
        try:
            cuda = Cuda()
        except MissingDependencyError:
            words += ", host memory not pinned for want of cuda-bindings"
        memory: DeviceMemory | None = None
        try:
            session = make(None if cuda is None else cuda.stream)
            batch = _check_contract(session, self._file, bundle, self._output)
            spec = bundle.manifest.input
            image = (batch or 1, spec.height, spec.width, 3)
            shape, dtype = self._output_shape(session, image)
            kernel = None
            align_corners = self._answers.align_corners
            if cuda is not None and align_corners is not None:
                try:
                    kernel = UpsampleKernel(cuda, shape, image[1:3], align_corners)
                except (EngineError, MissingDependencyError) as error:
                    words += f", labels made on the CPU ({str(error).rstrip('.')})"
            memory = (
                PlainMemory(session, image, self._output, shape, dtype)
                if cuda is None
                else PinnedMemory(session, cuda, image, self._output, shape, dtype, kernel)
            )
            for _ in range(_WARM_UP):
                memory.run(np.zeros(image, np.uint8))
        except BaseException as error:
            if memory is not None:
                memory.close()
            elif cuda is not None:
                cuda.close()
            if isinstance(error, EngineError) or not isinstance(error, Exception):
                raise
            raise EngineError(f"a first run failed ({reason(error)})") from error
        self._memory, self._batch = memory, image[0]
        self._made = kernel is not None
        return words

    def _output_shape(self, session: Any, image: tuple[int, ...]) -> tuple[tuple[int, ...], Any]:
        if self._output == "labels":
            return image[:3], np.uint8
        given = next(value for value in session.get_outputs() if value.name == "logits")
        if not all(isinstance(size, int) for size in given.shape[1:]):
            raise EngineError(f"the shape of its logits, {given.shape}, is open")
        return (image[0], *given.shape[1:]), np.float32

    def _infer(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._session is None and self._memory is None:
            raise EngineError(f"{self._file}: the engine was closed; open it again.")
        times: list[dict[str, float]] = []
        labels = in_steps(lambda part: self._run(part, times), batch, self._batch)
        if times:
            self.stage_ms = {stage: sum(t[stage] for t in times) for stage in times[0]}
        return labels

    def _run(self, batch: NDArray[np.uint8], times: list[dict[str, float]]) -> NDArray[np.uint8]:
        with self._named_failures():
            if self._memory is not None and self._worker is not None:
                found, taken = self._worker.submit(self._memory.run, batch).result()
                times.append(taken)
            else:
                with self._interruptible() as options:
                    found = self._call([self._output], {"image": batch}, options)[0]
                    self._call = self._session.run  # it ends, so no thread need be spent on it
        return self._answers.labels(found, batch, made=self._made)

    def _first_call(self, *arguments: Any) -> list[Any]:
        return run_interruptible(self._session, *arguments)

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        """Raise what ONNX Runtime raises while it runs as `BadAnswerError`."""
        try:
            yield
        except EngineError:
            raise
        except Exception as error:  # onnxruntime's have no common base but this
            if "terminate flag" in str(error):
                raise BadAnswerError("was interrupted", advice="run it again") from error
            raise BadAnswerError(f"fails while running ({reason(error)})") from error

    @contextmanager
    def _interruptible(self) -> Iterator[Any]:
        """Options of one run that `interrupt` can end."""
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4  # what it would log it also raises
        with self._lock:
            self._under_way.add(options)
        try:
            yield options
        finally:
            with self._lock:
                self._under_way.discard(options)

    def interrupt(self) -> bool:
        with self._lock:
            for options in self._under_way:
                options.terminate = True
        if self._memory is not None:
            self._memory.interrupt()
        return True

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "threads": self._threads, "waiting": waiting()}

    def close(self) -> None:
        memory, session = self._memory, self._session
        self._memory = self._session = None
        self._call = self._first_call
        if isinstance(session, SharedCpuSession):
            session.close()
        if memory is not None and self._worker is not None:
            self._worker.submit(memory.close).result()
            self._worker.shutdown()


def _cache_folder() -> Path:
    """Folder of what this user's programs can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roadshift"


def _check_contract(session: Any, file: Path, bundle: Bundle, output: str) -> int | None:
    """`check_contract` of what a session says it takes and gives."""
    inputs, outputs = (
        {value.name: Port(value.type, value.shape) for value in values}
        for values in (session.get_inputs(), session.get_outputs())
    )
    return check_contract(inputs, outputs, file, bundle, output)


def open_on_tensorrt(
    bundle: Bundle, artefact: Artefact, *, device: str, threads: int | None
) -> OnnxEngine:
    """The artefact on ONNX Runtime's TensorRT provider, see `OnnxEngine`."""
    return OnnxEngine(bundle, artefact, device=device, threads=threads, tensorrt=True)
