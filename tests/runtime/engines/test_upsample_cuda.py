"""The CUDA kernel of upsample_argmax: compiled, its arithmetic run on the CPU, launched on fakes.

NVRTC needs no GPU, and neither does a C compiler, which runs the kernel's own source here, pixel by
pixel. On a GPU the kernel checks itself when an engine opens; `tests/gpu` runs it.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCudart
from roadshift.runtime.engines.cuda import Cuda
from roadshift.runtime.engines.upsample import sampling, upsample_argmax
from roadshift.runtime.engines.upsample_cuda import SOURCE, UpsampleKernel, compile_kernel
from roadshift.runtime.errors import EngineError, MissingDependencyError

HARNESS = """
#include <math.h>
#define __global__
typedef struct {{ unsigned x, y, z; }} dim3;
static dim3 blockIdx, blockDim, threadIdx;
{source}
void run(const float* z, unsigned char* labels, const int* a, const int* b, const float* f,
         const int* c, const int* d, const float* g, int K, int h, int w, int H, int W,
         const int* grid, const int* block)
{{
    blockDim.x = block[0]; blockDim.y = block[1]; blockDim.z = 1;
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x)
    for (threadIdx.y = 0; threadIdx.y < block[1]; ++threadIdx.y)
    for (threadIdx.x = 0; threadIdx.x < block[0]; ++threadIdx.x)
        upsample_argmax(z, labels, a, b, f, c, d, g, K, h, w, H, W);
}}
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The kernel's source, compiled for this machine's processor."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("kernel")
    source = HARNESS.format(source=SOURCE.replace('extern "C" ', ""))
    (folder / "kernel.c").write_text(source)
    subprocess.run(
        [
            *(compiler, "-O2", "-std=c99", "-ffp-contract=off", "-shared", "-fPIC"),
            *("-o", "kernel.so", "kernel.c", "-lm"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return ctypes.CDLL(str(folder / "kernel.so"))


class Driver:
    """The driver API: loads machine code that is not looked at, and launches ``compiled``."""

    def __init__(self, compiled: Any, wrong: bool = False) -> None:
        self.compiled, self.wrong = compiled, wrong
        self.unloaded = 0
        self.fail = ""

    def cuModuleLoadData(self, image: bytes) -> tuple[int, Any]:  # noqa: N802 - the driver's names
        assert image
        return (1, None) if self.fail == "cuModuleLoadData" else (0, "module")

    def cuModuleGetFunction(self, module: Any, name: bytes) -> tuple[int, Any]:  # noqa: N802
        return 0, (module, name)

    def cuModuleUnload(self, _: Any) -> tuple[int]:  # noqa: N802
        self.unloaded += 1
        return (0,)

    def cuLaunchKernel(self, function: Any, *rest: Any) -> tuple[int]:  # noqa: N802
        assert function == ("module", b"upsample_argmax")
        *sizes, shared, _, (values, types), extra = rest
        assert (len(sizes), shared, extra) == (6, 0, 0)
        grid, block = (ctypes.c_int * 3)(*sizes[:3]), (ctypes.c_int * 3)(*sizes[3:])
        self.compiled.run(*(t(v) for v, t in zip(values, types, strict=True)), grid, block)
        if self.wrong:
            ctypes.memset(values[1], 0, 64)
        return (0,)


IMAGE = b"cubin"  # more than a byte: CPython has one object for all equal bytes of one


class Nvrtc:
    """NVRTC that compiles anything to `IMAGE`, or refuses."""

    def __init__(self, refusal: str = "") -> None:
        self.refusal, self.alive, self.options = refusal, 0, []

    def nvrtcCreateProgram(self, source: bytes, *_: Any) -> tuple[int, str]:  # noqa: N802
        assert b"upsample_argmax" in source
        self.alive += 1
        return 0, "program"

    def nvrtcCompileProgram(self, _: str, count: int, options: list[bytes]) -> tuple[int]:  # noqa: N802
        assert count == len(options)
        self.options = options
        return (6 if self.refusal else 0,)

    def nvrtcGetProgramLogSize(self, _: str) -> tuple[int, int]:  # noqa: N802
        return 0, len(self.refusal)

    def nvrtcGetProgramLog(self, _: str, log: bytes) -> tuple[int]:  # noqa: N802
        ctypes.memmove(log, self.refusal.encode(), len(log))
        return (0,)

    def nvrtcGetCUBINSize(self, _: str) -> tuple[int, int]:  # noqa: N802
        return 0, len(IMAGE)

    def nvrtcGetCUBIN(self, _: str, image: bytes) -> tuple[int]:  # noqa: N802
        ctypes.memmove(image, IMAGE, len(image))
        return (0,)

    def nvrtcDestroyProgram(self, _: str) -> tuple[int]:  # noqa: N802
        self.alive -= 1
        return (0,)


def labels_of(kernel: UpsampleKernel, cuda: Cuda, logits: np.ndarray, size: Any) -> np.ndarray:
    given, found = cuda.pinned(logits.shape, np.float32), cuda.pinned((len(logits), *size), "u1")
    given[...] = logits
    given_at, found_at = cuda.device_buffer(given.nbytes), cuda.device_buffer(found.nbytes)
    cuda.to_device(given_at, given)
    kernel.launch(given_at, found_at)
    cuda.to_host(found, found_at)
    cuda.synchronize()
    return found.copy()


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 19, 13, 26), (104, 208)), ((2, 3, 5, 7), (33, 70)), ((1, 256, 1, 4), (9, 31))],
)
def test_the_kernels_labels_are_those_of_the_cpu(
    compiled: Any, shape: tuple[int, ...], size: tuple[int, int], align: bool
) -> None:
    cudart, driver = FakeCudart(), Driver(compiled)
    logits = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    logits[0, 0, 0, 0], logits[0, 1, 0, 1], logits[0, 2, 0, 2] = np.nan, np.inf, -np.inf
    with Cuda(cudart=cudart) as cuda:
        kernel = UpsampleKernel(cuda, shape, size, align, libraries=(Nvrtc(), driver), arch="sm_90")
        found = labels_of(kernel, cuda, logits, size)
    expected = [upsample_argmax(z, size[1], size[0], align) for z in logits]
    assert np.mean(found != np.stack(expected)) < 1e-3  # ties but for rounding
    assert cudart.leaked == {}
    assert driver.unloaded == 1


def test_of_equal_classes_the_first_wins(compiled: Any) -> None:
    logits = np.random.default_rng(2).integers(0, 3, (1, 4, 5, 9)).astype(np.float32)
    with Cuda(cudart=FakeCudart()) as cuda:
        libraries = Nvrtc(), Driver(compiled)
        kernel = UpsampleKernel(
            cuda, logits.shape, (40, 72), False, libraries=libraries, arch="sm_90"
        )
        found = labels_of(kernel, cuda, logits, (40, 72))
    np.testing.assert_array_equal(found[0], upsample_argmax(logits[0], 72, 40, False))


def test_a_kernel_that_gives_other_labels_or_does_not_load_is_refused(compiled: Any) -> None:
    for driver, says in (
        (Driver(compiled, wrong=True), r"agree with the CPU's on \d+\.\d+ %"),
        (Driver(compiled), "CUDA refused cuModuleLoadData"),
    ):
        driver.fail = "" if driver.wrong else "cuModuleLoadData"
        cudart = FakeCudart()
        with Cuda(cudart=cudart) as cuda, pytest.raises(EngineError, match=says):
            UpsampleKernel(
                cuda, (1, 4, 4, 4), (16, 16), False, libraries=(Nvrtc(), driver), arch="sm_90"
            )
        assert cudart.leaked == {}


def test_what_nvrtc_says_is_passed_on_in_one_line() -> None:
    nvrtc = Nvrtc("nvrtc: error: invalid value for --gpu-architecture\nmore\n")
    with pytest.raises(EngineError, match=r"for sm_999 \(nvrtc: error: invalid value[^\n]*\)$"):
        compile_kernel(nvrtc, "sm_999")
    assert nvrtc.alive == 0
    assert nvrtc.options == [b"--gpu-architecture=sm_999", b"--fmad=false"]


@pytest.mark.parametrize("arch", ["sm_75", "sm_87", "sm_90"])
def test_nvrtc_compiles_the_kernel(arch: str) -> None:
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    try:
        _, known = nvrtc.nvrtcGetSupportedArchs()
    except RuntimeError as error:
        pytest.skip(str(error).splitlines()[0])
    if int(arch[3:]) not in known:
        pytest.skip(f"this NVRTC knows no {arch}")
    image = compile_kernel(nvrtc, arch)
    assert image[:4] == b"\x7fELF"
    assert b"upsample_argmax" in image


def test_tables_hold_each_pixels_two_logits_and_the_way_between_them() -> None:
    first, second, fraction = sampling(3, 6, False)
    assert first.tolist() == [0, 0, 0, 1, 1, 2]
    assert second.tolist() == [0, 1, 1, 2, 2, 2]
    assert fraction.tolist() == [0.75, 0.25, 0.75, 0.25, 0.75, 0.25]
    assert sampling(1, 1, True)[2].tolist() == [0.0]


def test_without_nvrtc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with (
        Cuda(cudart=FakeCudart()) as cuda,
        pytest.raises(MissingDependencyError, match="pip install nvidia-cuda-nvrtc"),
    ):
        UpsampleKernel(cuda, (1, 4, 4, 4), (16, 16), False, arch="sm_90")
