"""The CUDA runtime as a list of calls: host memory stands in for the device's, streams run at once.

It refuses what CUDA refuses: an address or a handle that is not alive, a second release, a copy
beyond a buffer, a launch of work that was never captured. Comments name the page of NVIDIA's "CUDA
Runtime API" or "CUDA Driver API" that says so, which the docstrings of ``cuda.bindings`` repeat;
"assumed" is what no page says.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest


class Error(IntEnum):
    """Codes of cudaError_t, "Data types used by CUDA Runtime"; `TEXTS` is cudaGetErrorString."""

    SUCCESS = 0
    INVALID_VALUE = 1
    MEMORY_ALLOCATION = 2
    INVALID_RESOURCE_HANDLE = 400
    NOT_READY = 600
    STREAM_CAPTURE_UNSUPPORTED = 900


TEXTS = {
    Error.INVALID_VALUE: "invalid argument",
    Error.MEMORY_ALLOCATION: "out of memory",
    Error.INVALID_RESOURCE_HANDLE: "invalid resource handle",
    Error.NOT_READY: "device not ready",
    Error.STREAM_CAPTURE_UNSUPPORTED: "operation not permitted when stream is capturing",
}
ALIGNMENT = 256  # bytes: TensorRT wants it of cudaMalloc's addresses; that they have it is assumed


class Handle(int):
    """An opaque CUDA object."""


class FakeCudart:
    """As much of ``cuda.bindings.runtime`` as `Cuda` uses; ``calls`` are the names in order.

    Attributes:
        fail: name of a function to the call of it, from 1, that fails.
        alive: what was made and not released: name of its maker to handles or addresses.
        work: what a captured stream would do, appended by the code under test's collaborators.
    """

    # Values: held against cuda.bindings in test_cuda.py.
    cudaStreamNonBlocking = 1  # noqa: N815
    cudaHostAllocDefault = 0  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    _RELEASES = {  # noqa: RUF012
        "cudaStreamDestroy": "cudaStreamCreateWithFlags",
        "cudaFree": "cudaMalloc",
        "cudaFreeHost": "cudaHostAlloc",
        "cudaEventDestroy": "cudaEventCreate",
        "cudaGraphDestroy": "cudaStreamEndCapture",
        "cudaGraphExecDestroy": "cudaGraphInstantiate",
    }
    # "Stream Management", cudaThreadExchangeStreamCaptureMode: a capture of mode ThreadLocal
    # prohibits potentially unsafe calls, cudaMalloc for one. "Constraints" (docs.nvidia.com/
    # dl-cuda-graph): no cudaStreamSynchronize on the stream. cudaHostAlloc is assumed.
    _NOT_WHILE_CAPTURING = frozenset({"cudaMalloc", "cudaHostAlloc", "cudaStreamSynchronize"})

    def __init__(self, fail: dict[str, int] | None = None) -> None:
        self.fail = dict(fail or {})
        self.calls: list[str] = []
        self.alive: dict[str, dict[int, Any]] = {maker: {} for maker in self._RELEASES.values()}
        self.capturing: list[Callable[[], None]] | None = None
        self.clock = self.passed = 0  # events recorded, and those that the host waited for
        self._next = 1000

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            if self.fail.get(name) == self.calls.count(name):
                return (Error.MEMORY_ALLOCATION, None)
            if name in self._NOT_WHILE_CAPTURING and self.capturing is not None:
                return (Error.STREAM_CAPTURE_UNSUPPORTED, None)
            if name in self._RELEASES:
                return self._release(self._RELEASES[name], int(arguments[0]))
            return getattr(self, f"_{name}", self._nothing)(*arguments)

        return call

    @property
    def leaked(self) -> dict[str, list[int]]:
        return {maker: sorted(made) for maker, made in self.alive.items() if made}

    def run(self, work: Callable[[], None]) -> None:
        """Do ``work`` on the stream: now, or in the graph that is being captured."""
        if self.capturing is not None:
            self.capturing.append(work)
        else:
            work()

    def inside(self, address: int, size: int) -> bool:
        """All of these bytes are in one buffer that is alive."""
        blocks = {**self.alive["cudaMalloc"], **self.alive["cudaHostAlloc"]}
        return any(
            start <= address and address + size <= start + length
            for start, (_, length) in blocks.items()
        )

    def _make(self, maker: str, thing: Any = None) -> tuple[Error, Handle]:
        self._next += 1
        self.alive[maker][self._next] = thing
        return Error.SUCCESS, Handle(self._next)

    def _release(self, maker: str, handle: int) -> tuple[Error]:
        # "Memory Management", cudaFree: an error where it was called before; cudaErrorInvalidValue.
        # "Stream", "Event" and "Graph Management": that, or InvalidResourceHandle.
        known = self.alive[maker].pop(handle, self) is not self
        return (Error.SUCCESS if known else Error.INVALID_VALUE,)

    def _nothing(self, *_: Any) -> tuple[Error]:
        return (Error.SUCCESS,)

    def _allocate(self, maker: str, size: int) -> tuple[Error, int]:
        # "Memory Management", cudaMalloc: the memory is not cleared.
        block = (ctypes.c_uint8 * (size + ALIGNMENT))()
        address = -(-ctypes.addressof(block) // ALIGNMENT) * ALIGNMENT
        ctypes.memset(address, 0xCC, size)
        self.alive[maker][address] = block, size
        return Error.SUCCESS, address

    def _cudaMalloc(self, size: int) -> tuple[Error, int]:  # noqa: N802
        return self._allocate("cudaMalloc", size)

    def _cudaHostAlloc(self, size: int, _: int) -> tuple[Error, int]:  # noqa: N802
        return self._allocate("cudaHostAlloc", size)

    def _cudaStreamCreateWithFlags(self, _: int) -> tuple[Error, Handle]:  # noqa: N802
        return self._make("cudaStreamCreateWithFlags")

    def _cudaEventCreate(self) -> tuple[Error, Handle]:  # noqa: N802
        return self._make("cudaEventCreate")

    def _cudaStreamSynchronize(self, _: Handle) -> tuple[Error]:  # noqa: N802
        self.passed = self.clock
        return (Error.SUCCESS,)

    def _cudaEventRecord(self, event: Handle, _: Handle) -> tuple[Error]:  # noqa: N802
        self.clock += 1
        self.alive["cudaEventCreate"][event] = self.clock
        return (Error.SUCCESS,)

    def _cudaEventElapsedTime(self, start: Handle, end: Handle) -> tuple[Error, float]:  # noqa: N802
        # "Event Management", cudaEventElapsedTime: InvalidResourceHandle where one was not
        # recorded, NotReady where one has not been completed.
        events = self.alive["cudaEventCreate"]
        first, last = events.get(start), events.get(end)
        if first is None or last is None:
            return Error.INVALID_RESOURCE_HANDLE, 0.0
        if max(first, last) > self.passed:
            return Error.NOT_READY, 0.0
        return Error.SUCCESS, float(last - first)

    def _cudaMemcpyAsync(  # noqa: N802
        self, target: int, source: int, size: int, _kind: int, _stream: Handle
    ) -> tuple[Error]:
        # Stricter than "Memory Management", cudaMemcpyAsync, which takes pageable memory, too.
        if not (self.inside(target, size) and self.inside(source, size)):
            return (Error.INVALID_VALUE,)
        self.run(lambda: ctypes.memmove(target, source, size) and None)
        return (Error.SUCCESS,)

    def _cudaStreamBeginCapture(self, *_: Any) -> tuple[Error]:  # noqa: N802
        # "Stream Management", cudaStreamBeginCapture: operations are not executed, but captured;
        # only where the stream is not in capture mode already.
        if self.capturing is not None:
            return (Error.INVALID_VALUE,)
        self.capturing = []
        return (Error.SUCCESS,)

    def _cudaStreamEndCapture(self, _: Handle) -> tuple[Error, Handle | None]:  # noqa: N802
        # "Stream Management", cudaStreamEndCapture: capture must have been begun.
        if self.capturing is None:
            return Error.INVALID_VALUE, None
        work, self.capturing = self.capturing, None
        return self._make("cudaStreamEndCapture", work)

    def _cudaGraphInstantiate(self, graph: Handle, _: int) -> tuple[Error, Handle]:  # noqa: N802
        return self._make("cudaGraphInstantiate", self.alive["cudaStreamEndCapture"][graph])

    def _cudaGraphLaunch(self, executable: Handle, _: Handle) -> tuple[Error]:  # noqa: N802
        for work in self.alive["cudaGraphInstantiate"][executable]:
            work()
        return (Error.SUCCESS,)

    def _cudaGetErrorName(self, error: Error) -> tuple[Error, bytes]:  # noqa: N802
        return Error.SUCCESS, f"cudaError{error.name.title().replace('_', '')}".encode()

    def _cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:  # noqa: N802
        return Error.SUCCESS, TEXTS[error].encode()


class Driver:
    """libcuda with ``count`` devices, as far as it is asked; ``code`` is what cuInit returns.

    Pages "Initialization", "Device Management" and "Version Management" of the "CUDA Driver API".
    """

    def __init__(self, count: int = 1, code: int = 0) -> None:
        self.count, self.code = count, code

    def cuInit(self, _: int) -> int:  # noqa: N802
        return self.code

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.count
        return 0

    def cuDeviceGetName(self, name: Any, _size: int, _device: int) -> int:  # noqa: N802
        name.value = b"NVIDIA Test"
        return 0

    def cuDeviceGetAttribute(self, value: Any, number: int, _device: int) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: 7}[number]  # the compute capability's major and minor
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 12080  # 1000 times the major version and 10 times the minor one
        return 0


def use_driver(monkeypatch: pytest.MonkeyPatch, driver: Driver | None) -> None:
    """Make ``driver`` the machine's libcuda, or let it have none; other libraries stay."""
    real = ctypes.CDLL

    def load(name: str | None, *arguments: Any, **options: Any) -> Any:
        if name != "libcuda.so.1":
            return real(name, *arguments, **options)
        if driver is None:
            raise OSError(f"{name}: cannot open shared object file")
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setitem(sys.modules, "pynvml", None)
