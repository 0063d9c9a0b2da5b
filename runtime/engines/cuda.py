"""Device memory, pinned host memory, a stream, events and graphs, through ``cuda-bindings``.

Everything that a `Cuda` hands out belongs to it and goes with it: `close` releases all of it, once,
last made first, also after a failure.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..closing import Closing
from ..errors import EngineError, MissingDependencyError
from ..probes.driver import driver_problem


def load_cudart() -> Any:
    """The CUDA runtime's bindings.

    Raises:
        EngineError: there is no CUDA driver or device.
        MissingDependencyError: cuda-bindings is not installed.
    """
    if problem := driver_problem():
        raise EngineError(f"CUDA does not work here: {problem}; `roadshift doctor` says more.")
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MissingDependencyError(
            "Running a TensorRT engine needs cuda-bindings: pip install 'roadshift[tensorrt]'."
        ) from error
    return runtime


class Cuda(Closing):
    """The first device, a stream of its own on it, and whatever is allocated here; for one thread.

    Copies and launches are asynchronous until `synchronize`. The stream is not the default one,
    which cannot be captured into a graph and waits for all others.

    Args:
        cudart: the runtime's bindings, of `load_cudart` unless given.

    Raises:
        EngineError: from any method, CUDA refused; the message names the call and the error.
    """

    def __init__(self, *, cudart: Any = None) -> None:
        self._cudart = load_cudart() if cudart is None else cudart
        self._releases: list[Callable[[], object]] = []
        self._call("cudaSetDevice", 0)
        self._stream = self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking)
        self._on_close("cudaStreamDestroy", self._stream)

    @property
    def stream(self) -> int:
        """The stream's handle, as other libraries take it."""
        return int(self._stream)

    def device_buffer(self, size: int) -> int:
        """Address of ``size`` bytes of device memory, not initialised."""
        address = int(self._call("cudaMalloc", size))
        self._on_close("cudaFree", address)
        return address

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A host array in page-locked memory, zeroed; it must not be used after `close`."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._call("cudaHostAlloc", size, self._cudart.cudaHostAllocDefault))
        self._on_close("cudaFreeHost", address)
        block = (ctypes.c_uint8 * size).from_address(address)
        array: NDArray[Any] = np.ctypeslib.as_array(block).view(dtype).reshape(shape)
        array[...] = 0
        return array

    def to_device(self, address: int, source: NDArray[Any]) -> None:
        """Start copying a pinned array to ``address``."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(
            "cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, self._stream
        )

    def to_host(self, target: NDArray[Any], address: int) -> None:
        """Start copying from ``address`` into a pinned array."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(
            "cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, self._stream
        )

    def event(self) -> Any:
        """An event that keeps time."""
        event = self._call("cudaEventCreate")
        self._on_close("cudaEventDestroy", event)
        return event

    def record(self, event: Any) -> None:
        """Mark the point in the stream that everything before has reached."""
        self._call("cudaEventRecord", event, self._stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events that have passed."""
        return float(self._call("cudaEventElapsedTime", start, end))

    def synchronize(self) -> None:
        """Wait for all that was started."""
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what ``work`` starts on the stream as one graph: a function that launches it.

        ``work`` must have run once before, since a first run may allocate. The stream stays
        usable where capturing fails.
        """
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            _, graph = self._cudart.cudaStreamEndCapture(self._stream)
            if graph is not None and int(graph):
                self._cudart.cudaGraphDestroy(graph)
            self._cudart.cudaGetLastError()  # an error of the capture is not one of the next call
            raise
        graph = self._call("cudaStreamEndCapture", self._stream)
        try:
            executable = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._cudart.cudaGraphDestroy(graph)
        self._on_close("cudaGraphExecDestroy", executable)
        return lambda: self._call("cudaGraphLaunch", executable, self._stream)

    def close(self) -> None:
        """Wait for the stream and release everything; a second call does nothing."""
        if self._releases:
            self._cudart.cudaStreamSynchronize(self._stream)
        while self._releases:
            self._releases.pop()()

    def on_close(self, release: Callable[[], object]) -> None:
        """Also release something of the caller's, before what was made ahead of it."""
        self._releases.append(release)

    def _on_close(self, function: str, handle: Any) -> None:
        """Releasing ignores CUDA's errors: nothing can be done about one, and the rest must go."""
        self._releases.append(lambda: getattr(self._cudart, function)(handle))

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call the runtime; its value, or None where it gives none."""
        error, *values = getattr(self._cudart, function)(*arguments)
        if int(error):
            _, name = self._cudart.cudaGetErrorName(error)
            _, text = self._cudart.cudaGetErrorString(error)
            raise EngineError(
                f"CUDA refused {function}: {_text(text)} ({_text(name)}); free device memory if it "
                "is full, and check the driver with nvidia-smi."
            )
        return values[0] if values else None


def _text(said: bytes | str) -> str:
    return said.decode() if isinstance(said, bytes) else str(said)
