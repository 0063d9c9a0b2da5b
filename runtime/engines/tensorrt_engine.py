"""A TensorRT plan on the GPU that it was built for.

The plan takes ``image``, (1, H, W, 3) uint8 RGB, and gives ``labels``, (1, H, W) uint8, or, where
the argmax is left to the runtime, ``logits``, (1, K, h, w) float32 at the network's stride.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Artefact, Bundle
from ..errors import EngineError, MissingDependencyError, arg
from .base import Engine
from .checks import check_logits
from .cuda import Cuda
from .tensorrt_library import TensorRT, load_tensorrt, plan_problem
from .upsample import upsample_argmax
from .upsample_cuda import UpsampleKernel


class TensorRTEngine(Engine):
    """A plan with its buffers at fixed addresses, launched as a CUDA graph where it can be one.

    Host memory is pinned, the stream is its own, and `infer` returns when the labels are there.
    ``stage_ms`` is measured by CUDA events at every call. Threads that share an engine take turns.

    Args:
        bundle: says the input size and the label space.
        artefact: of kind "tensorrt"; only bytes with the manifest's hash are ever deserialised.
        device: "auto" or "cuda".
        threads: not used, a GPU has no such setting.

    Raises:
        EngineError: the machine lacks what the plan needs, the plan was built for another machine,
            or it does not keep the contract above; the message says what to install, or whether to
            rebuild or to refit.
    """

    def __init__(
        self,
        bundle: Bundle,
        artefact: Artefact,
        *,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        del threads
        file = bundle.file(artefact)
        if device == "cpu":
            raise EngineError(
                f"{file.name} is a TensorRT plan and needs a GPU; leave {arg('device')}."
            )
        weights = bundle.artefact(kind="weights")
        if problem := plan_problem(artefact, weights.sha256 if weights else None):
            raise EngineError(f"{file} cannot run here: {problem}. {_remedy(bundle, artefact)}")
        library = load_tensorrt(str(artefact.details.get("flavour", "tensorrt")))
        self._align_corners = (
            bool(artefact.details.get("align_corners"))
            if artefact.details.get("argmax") == "runtime"
            else None
        )
        plan = bundle.content(artefact)  # hashed: a plan is native code
        self._lock = threading.Lock()
        self._plan = _Plan(library, plan, str(file), bundle, self._align_corners)
        super().__init__(
            bundle.label_space,
            bundle.manifest.input,
            backend="tensorrt",
            precision=artefact.precision or "unknown",
            device="cuda",
            artefact=artefact.path,
            reason=(
                f"{library} runs {artefact.path} ({artefact.precision or 'unknown precision'}) on "
                f"{artefact.details['gpu']}, which it was built for, "
                f"{'as one CUDA graph' if self._plan.is_graph else 'kernel by kernel'}"
                f"{self._plan.words}."
            ),
        )

    def _infer(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = self.input.width, self.input.height
        labels = np.empty(batch.shape[:3], np.uint8)
        total = dict.fromkeys(("h2d", "gpu", "d2h"), 0.0)
        for frame, target in zip(batch, labels, strict=True):
            with self._lock:  # what comes back is valid until the next run
                found, times = self._plan.run(frame)
                if self._align_corners is None or found.dtype == np.uint8:
                    target[...] = found
                else:
                    check_logits(found[None], (1, self.label_space.num_classes, *found.shape[1:]))
                    target[...] = upsample_argmax(found, *size, self._align_corners)
            total = {stage: total[stage] + times[stage] for stage in total}
        self.stage_ms = total
        return labels

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "cuda_graph": self._plan.is_graph}

    def close(self) -> None:
        self._plan.close()


class _Plan:
    """A deserialised plan, its context, memory and graph; nothing is left where making it fails.

    Attributes:
        is_graph: whether a frame is one launch of a CUDA graph.
        words: of `Engine.reason`, on labels that are not made on the GPU.
    """

    def __init__(
        self, library: TensorRT, plan: bytes, what: str, bundle: Bundle, align_corners: bool | None
    ) -> None:
        self._what, self._trt = what, library.module
        self._logger, self._said = library.listen()
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._kernel: UpsampleKernel | None = None
        self.words = ""
        output = "labels" if align_corners is None else "logits"
        self._cuda = Cuda()
        try:
            self._runtime = self._trt.Runtime(self._logger)
            self._engine = self._made(self._runtime.deserialize_cuda_engine(plan), "deserialise")
            self._context = self._made(self._engine.create_execution_context(), "get memory for")
            shapes = self._check_contract(bundle, output)
            self._bind(shapes, output)
            if align_corners is not None:
                self._label_on_the_gpu(shapes, align_corners)
            self._start()
        except BaseException:
            self.close()
            raise

    def run(self, frame: NDArray[np.uint8]) -> tuple[NDArray[Any], dict[str, float]]:
        """Run one frame: its labels or logits, valid until the next run, and times."""
        if self._context is None:  # the memory is gone too
            raise EngineError(f"{self._what}: the engine was closed; open it again.")
        cuda, marks = self._cuda, self._marks
        self._image[0] = frame
        cuda.record(marks[0])
        cuda.to_device(self._image_at, self._image)
        cuda.record(marks[1])
        self._launch()
        cuda.record(marks[2])
        cuda.to_host(self._found, self._found_at)
        cuda.record(marks[3])
        cuda.synchronize()
        times = [cuda.elapsed_ms(start, end) for start, end in pairwise(marks)]
        return self._found[0], dict(zip(("h2d", "gpu", "d2h"), times, strict=True))

    def close(self) -> None:
        """Release the graph and the memory, then the context, the engine and the runtime."""
        self._cuda.close()
        self._kernel = None
        self._context = None
        self._engine = None
        self._runtime = None

    def _check_contract(self, bundle: Bundle, output: str) -> dict[str, tuple[int, ...]]:
        """The shapes of all inputs and outputs; EngineError where they are not as described."""
        engine, trt, spec = self._engine, self._trt, bundle.manifest.input
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        types = {name: engine.get_tensor_dtype(name) for name in names}
        frame = (1, spec.height, spec.width)
        fits = (
            [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT] == ["image"]
            and shapes["image"] == (*frame, 3)
            and types["image"] == trt.uint8
            and output in names
            and types[output] == (trt.uint8 if output == "labels" else trt.float32)
            and (shapes[output] == frame if output == "labels" else len(shapes[output]) == 4)
        )
        if not fits:
            said = ", ".join(f"{name} {types[name]} {shapes[name]}" for name in names)
            raise EngineError(
                f"{self._what} has {said}, but the manifest says uint8 frames of "
                f"{spec.width}x{spec.height} to {output}; export the bundle again."
            )
        return shapes

    def _bind(self, shapes: dict[str, tuple[int, ...]], output: str) -> None:
        """Give every input and output its place in device memory, where it stays."""
        sizes = {self._trt.uint8: 1, self._trt.float32: 4}
        at = {}
        for name, shape in shapes.items():
            size = sizes.get(self._engine.get_tensor_dtype(name))
            if size is None or min(shape) < 1:
                raise EngineError(f"{self._what}: {name} has an open shape or an unknown type.")
            at[name] = self._cuda.device_buffer(prod(shape) * size)
            self._made(self._context.set_tensor_address(name, at[name]), f"bind {name} of")
        self._image_at, self._found_at = at["image"], at[output]
        self._image = self._cuda.pinned(shapes["image"], np.uint8)
        self._found = self._cuda.pinned(
            shapes[output], np.uint8 if output == "labels" else np.float32
        )
        self._marks = [self._cuda.event() for _ in range(4)]

    def _label_on_the_gpu(self, shapes: dict[str, tuple[int, ...]], align_corners: bool) -> None:
        """Have a kernel make labels of the logits, which then stay on the device."""
        frame = shapes["image"][:3]
        try:
            self._kernel = UpsampleKernel(
                self._cuda, shapes["logits"], (frame[1], frame[2]), align_corners
            )
        except (EngineError, MissingDependencyError) as error:
            self.words = f", labels made on the CPU ({str(error).rstrip('.')})"
            return
        self._logits_at = self._found_at
        self._found = self._cuda.pinned(frame, np.uint8)
        self._found_at = self._cuda.device_buffer(self._found.nbytes)

    def _start(self) -> None:
        """Run once, which may allocate, then capture a graph where the plan can be captured."""
        self._cuda.to_device(self._image_at, self._image)
        self._enqueue()
        self._cuda.synchronize()
        try:
            self._launch: Callable[[], None] = self._cuda.capture(self._enqueue)
            self.is_graph = True
        except EngineError:
            self._launch, self.is_graph = self._enqueue, False

    def _enqueue(self) -> None:
        self._made(self._context.execute_async_v3(self._cuda.stream), "start")
        if self._kernel is not None:
            self._kernel.launch(self._logits_at, self._found_at)

    def _made(self, thing: Any, doing: str) -> Any:
        """``thing``, unless the library gave nothing or False instead."""
        if thing is None or thing is False:
            why = f" ({self._said[-1]})" if self._said else ""
            raise EngineError(
                f"TensorRT cannot {doing} {self._what}{why}; build it again on this machine, and "
                "see `roadshift doctor`."
            )
        return thing


def _remedy(bundle: Bundle, artefact: Artefact) -> str:
    """Advice for a plan that cannot run: a command to type, or an option to run without it."""
    precision = artefact.precision or "fp32"
    rebuild = f"`roadshift export {bundle.path} --to tensorrt --precision {precision}`"
    if artefact.path in bundle.beside:
        rebuild = "`roadshift slot build`"
    return (
        f"Rebuilding is {rebuild}; "
        f"{arg('backend', 'onnxruntime')} runs the bundle without TensorRT."
    )
