"""`upsample_argmax` on a GPU: one kernel, compiled for it by NVRTC when an engine opens.

A thread makes one pixel: it interpolates class by class in registers and keeps the best, so that no
logits at full size are ever written. Sampling points come from the same tables as on the CPU, and
products and sums are rounded in the same order, so both give the same labels but for ties.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, MissingDependencyError
from ..probes.driver import gpu
from .cuda import Cuda
from .upsample import LARGEST, sampling, upsample_argmax

SOURCE = f"""
#define LARGEST {LARGEST:.9e}f

extern "C" __global__ void upsample_argmax(
    const float* logits, unsigned char* labels,
    const int* first_row, const int* second_row, const float* down,
    const int* first_column, const int* second_column, const float* right,
    int classes, int low_height, int low_width, int height, int width)
{{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const long long plane = (long long)low_height * low_width;
    const long long top = (long long)first_row[y] * low_width;
    const long long low = (long long)second_row[y] * low_width;
    const int left = first_column[x], far = second_column[x];
    const float fy = down[y], fx = right[x];
    const float* z = logits + blockIdx.z * classes * plane;
    float best = 0.0f;
    unsigned char label = 0;
    for (int k = 0; k < classes; ++k, z += plane) {{
        // fmaxf and fminf give the other operand for NaN: it becomes the lowest logit.
        const float a = fminf(fmaxf(z[top + left], -LARGEST), LARGEST);
        const float b = fminf(fmaxf(z[top + far], -LARGEST), LARGEST);
        const float c = fminf(fmaxf(z[low + left], -LARGEST), LARGEST);
        const float d = fminf(fmaxf(z[low + far], -LARGEST), LARGEST);
        const float above = a + fx * (b - a);
        const float below = c + fx * (d - c);
        const float score = fy * (below - above) + above;
        if (k == 0 || score > best) {{
            best = score;
            label = (unsigned char)k;
        }}
    }}
    labels[((long long)blockIdx.z * height + y) * width + x] = label;
}}
"""
_BLOCK = (32, 8)


class UpsampleKernel:
    """Labels at full size from logits in device memory, on the stream of ``cuda``.

    Before it is used it makes labels of logits that were drawn here, and they are compared with
    what the CPU makes of them.

    Args:
        cuda: owns its tables and stream.
        logits: (B, K, h, w), the shape of what it takes, float32.
        size: (height, width) of the labels.
        align_corners: see `upsample_argmax`.
        libraries: ``(nvrtc, driver)`` of cuda-bindings unless given.
        arch: such as "sm_90"; the first GPU's unless given.

    Raises:
        EngineError: NVRTC or the driver refuses, or the labels are others than the CPU's.
        MissingDependencyError: cuda-bindings or NVRTC is not installed.
    """

    def __init__(
        self,
        cuda: Cuda,
        logits: tuple[int, ...],
        size: tuple[int, int],
        align_corners: bool,
        *,
        libraries: tuple[Any, Any] | None = None,
        arch: str | None = None,
    ) -> None:
        nvrtc, self._driver = libraries or _libraries()
        arch = arch or f"sm_{gpu().compute_capability.replace('.', '')}"
        self._cuda = cuda
        self._grid = (-(-size[1] // _BLOCK[0]), -(-size[0] // _BLOCK[1]), logits[0])
        self._shape = (*logits[1:], *size)
        tables = (
            *sampling(logits[2], size[0], align_corners),
            *sampling(logits[3], size[1], align_corners),
        )
        self._tables = [self._upload(table) for table in tables]
        cuda.synchronize()
        self._image = compile_kernel(nvrtc, arch)
        self._module = self._call("cuModuleLoadData", self._image)
        cuda.on_close(lambda: self._driver.cuModuleUnload(self._module))
        self._function = self._call("cuModuleGetFunction", self._module, b"upsample_argmax")
        self._check(logits, size, align_corners)

    def launch(self, logits: int, labels: int) -> None:
        """Start making labels, (B, height, width) uint8, at one address of logits at another."""
        values = (logits, labels, *self._tables, *self._shape)
        types = (*(ctypes.c_void_p,) * 8, *(ctypes.c_int,) * 5)
        self._call(
            "cuLaunchKernel",
            *(self._function, *self._grid, *_BLOCK, 1, 0, self._cuda.stream, (values, types), 0),
        )

    def _upload(self, table: NDArray[Any]) -> int:
        host = self._cuda.pinned(table.shape, table.dtype)
        host[...] = table
        address = self._cuda.device_buffer(host.nbytes)
        self._cuda.to_device(address, host)
        return address

    def _check(self, logits: tuple[int, ...], size: tuple[int, int], align_corners: bool) -> None:
        cuda = self._cuda
        given = cuda.pinned(logits, np.float32)
        given[...] = np.random.default_rng(0).normal(size=logits)
        found = cuda.pinned((logits[0], *size), np.uint8)
        given_at, found_at = cuda.device_buffer(given.nbytes), cuda.device_buffer(found.nbytes)
        cuda.to_device(given_at, given)
        self.launch(given_at, found_at)
        cuda.to_host(found, found_at)
        cuda.synchronize()
        expected = [upsample_argmax(z, size[1], size[0], align_corners) for z in given]
        same = 100 * float(np.mean(found == np.stack(expected)))
        if not same >= 99.9:
            raise EngineError(f"its labels agree with the CPU's on {same:.2f} % of the pixels")

    def _call(self, function: str, *arguments: Any) -> Any:
        error, *values = getattr(self._driver, function)(*arguments)
        if int(error):
            raise EngineError(f"CUDA refused {function} (error {int(error)})")
        return values[0] if values else None


def compile_kernel(nvrtc: Any, arch: str) -> bytes:
    """The kernel as machine code for ``arch``, such as "sm_90".

    Products and sums stay apart (no fused multiply-add), as they are on the CPU.

    Raises:
        EngineError: NVRTC refuses; the message is the first line that it says.
    """
    options = [f"--gpu-architecture={arch}".encode(), b"--fmad=false"]
    _, program = nvrtc.nvrtcCreateProgram(SOURCE.encode(), b"upsample_argmax.cu", 0, [], [])
    try:
        (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if int(error):
            _, size = nvrtc.nvrtcGetProgramLogSize(program)
            log = b" " * size
            nvrtc.nvrtcGetProgramLog(program, log)
            said = log.decode(errors="replace").strip("\0 \n").splitlines() or [f"error {error}"]
            raise EngineError(f"NVRTC cannot compile for {arch} ({said[0]})")
        _, size = nvrtc.nvrtcGetCUBINSize(program)
        image: bytes = b" " * size
        nvrtc.nvrtcGetCUBIN(program, image)
        return image
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _libraries() -> tuple[Any, Any]:
    try:
        from cuda.bindings import driver, nvrtc

        nvrtc.nvrtcVersion()  # loads the library, which is a package of its own
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(
            "no NVRTC to compile a kernel with; pip install nvidia-cuda-nvrtc"
        ) from error
    return nvrtc, driver
