"""The NVIDIA driver, asked through ``libcuda`` alone: no package, no allocation, no crash.

Libraries that need a driver may end the process where there is none (TensorRT's runtime does), so
this is asked before any of them is touched.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from ..errors import EngineError

_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


@dataclass(frozen=True)
class Gpu:
    """The first GPU of this machine.

    Attributes:
        name: such as "NVIDIA H200".
        compute_capability: such as "9.0".
        driver: version of the driver where NVML tells it ("570.86.15"), else the CUDA version that
            it supports ("CUDA 12.8").
    """

    name: str
    compute_capability: str
    driver: str


def started_driver() -> tuple[Any, int] | None:
    """``libcuda`` and what its cuInit returned, 0 where it started; None where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver, driver.cuInit(0)


def driver_problem() -> str | None:
    """The reason why no CUDA device can be used here, as far as the driver tells; None: one can."""
    found = started_driver()
    if found is None:
        return "no CUDA driver found (libcuda.so.1)"
    driver, code = found
    if code:
        return f"the CUDA driver does not start (cuInit returned {code})"
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return "the CUDA driver finds no device"
    return None


def gpu() -> Gpu:
    """The first device, as the driver describes it.

    Raises:
        EngineError: there is none; `driver_problem` says why.
    """
    if problem := driver_problem():
        raise EngineError(f"There is no GPU to ask about: {problem}.")
    driver = ctypes.CDLL("libcuda.so.1")
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), 0)

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), number, 0)
        return value.value

    capability = f"{attribute(_COMPUTE_CAPABILITY_MAJOR)}.{attribute(_COMPUTE_CAPABILITY_MINOR)}"
    return Gpu(name.value.decode(), capability, _driver_version(driver))


def _driver_version(driver: Any) -> str:
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            said = pynvml.nvmlSystemGetDriverVersion()
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # NVML is an extra, and lacks on Jetson; the CUDA version is there always
        version = ctypes.c_int()
        driver.cuDriverGetVersion(ctypes.byref(version))
        return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return said.decode() if isinstance(said, bytes) else str(said)
