"""A session's input and output in device memory, at addresses that never change.

That is what a CUDA graph needs, and it spares an allocation a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import DTypeLike, NDArray

from ..cuda import Cuda
from ..upsample_cuda import UpsampleKernel

Shape = tuple[int, ...]


class DeviceMemory(Protocol):
    """Memory that a session is bound to, and is run through."""

    def run(self, batch: NDArray[np.uint8]) -> tuple[NDArray[Any], dict[str, float]]:
        """Run one batch: its output, the caller's to keep, and milliseconds of h2d, gpu and d2h.

        That is the output, or the labels where an `UpsampleKernel` makes them of it.
        """

    def interrupt(self) -> None:
        """End a run that is under way, from another thread; it raises."""

    def close(self) -> None:
        """Release the memory."""


class PinnedMemory:
    """Page-locked host memory, copied on the session's own stream, timed by CUDA events.

    Args:
        session: on CUDA, made for ``cuda.stream``.
        cuda: owns all of it; `close` closes it.
        image: the input's shape.
        output, shape, dtype: the output's name, shape and type.
        kernel: makes labels of the output, which then stays on the device.
    """

    def __init__(
        self,
        session: Any,
        cuda: Cuda,
        image: Shape,
        output: str,
        shape: Shape,
        dtype: DTypeLike,
        kernel: UpsampleKernel | None = None,
    ) -> None:
        self._session, self._cuda, self._kernel = session, cuda, kernel
        self._image = cuda.pinned(image, np.uint8)
        self._found = cuda.pinned(shape, dtype) if kernel is None else cuda.pinned(image[:3], "u1")
        self._image_at = cuda.device_buffer(self._image.nbytes)
        self._output_at = cuda.device_buffer(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        self._found_at = (
            self._output_at if kernel is None else cuda.device_buffer(self._found.nbytes)
        )
        self._marks = [cuda.event() for _ in range(4)]
        self._io = session.io_binding()
        self._io.bind_input("image", "cuda", 0, np.uint8, image, self._image_at)
        self._io.bind_output(output, "cuda", 0, dtype, shape, self._output_at)
        self._options = onnxruntime.RunOptions()  # the stream is waited for here, once
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run(self, batch: NDArray[np.uint8]) -> tuple[NDArray[Any], dict[str, float]]:
        cuda, marks = self._cuda, self._marks
        self._options.terminate = False
        self._image[...] = batch
        cuda.record(marks[0])
        cuda.to_device(self._image_at, self._image)
        cuda.record(marks[1])
        self._session.run_with_iobinding(self._io, self._options)
        if self._kernel is not None:
            self._kernel.launch(self._output_at, self._found_at)
        cuda.record(marks[2])
        cuda.to_host(self._found, self._found_at)
        cuda.record(marks[3])
        cuda.synchronize()
        times = [cuda.elapsed_ms(start, end) for start, end in pairwise(marks)]
        return self._found.copy(), dict(zip(("h2d", "gpu", "d2h"), times, strict=True))

    def interrupt(self) -> None:
        self._options.terminate = True

    def close(self) -> None:
        self._io = None
        self._session = None
        self._cuda.close()


class PlainMemory:
    """The same by ONNX Runtime alone, for where cuda-bindings is not installed.

    Its copies are not from page-locked memory, each is waited for, and times are the host's.
    """

    def __init__(
        self, session: Any, image: Shape, output: str, shape: Shape, dtype: DTypeLike
    ) -> None:
        on_device = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        self._session = session
        self._image = on_device(list(image), np.uint8, "cuda", 0)
        self._found = on_device(list(shape), dtype, "cuda", 0)
        self._io = session.io_binding()
        self._io.bind_ortvalue_input("image", self._image)
        self._io.bind_ortvalue_output(output, self._found)
        self._options = onnxruntime.RunOptions()

    def run(self, batch: NDArray[np.uint8]) -> tuple[NDArray[Any], dict[str, float]]:
        marks = [perf_counter()]

        def timed(work: Callable[[], Any]) -> Any:
            result = work()
            marks.append(perf_counter())
            return result

        self._options.terminate = False
        timed(lambda: self._image.update_inplace(batch))
        timed(lambda: self._session.run_with_iobinding(self._io, self._options))
        found: NDArray[Any] = timed(self._found.numpy)  # a copy on the host
        times = [1e3 * (end - start) for start, end in pairwise(marks)]
        return found, dict(zip(("h2d", "gpu", "d2h"), times, strict=True))

    def interrupt(self) -> None:
        self._options.terminate = True

    def close(self) -> None:
        self._io = self._image = self._found = self._session = None
