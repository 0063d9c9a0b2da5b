"""An NVIDIA GPU as its driver tells it, through NVML (package nvidia-ml-py)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

from .base import Sample
from .driver import started_driver

# Bits of nvmlDeviceGetCurrentClocksEventReasons that hold a busy GPU's clock down; an idle GPU and
# clocks that a user has set are no throttling.
REASONS = {
    0x04: "power_cap",
    0x08: "hardware_slowdown",
    0x20: "software_thermal",
    0x40: "hardware_thermal",
    0x80: "power_brake",
}


class NvmlProbe:
    """One GPU: SM clock, temperature, power, throttling, energy, this process's memory.

    Args:
        nvml: the module ``pynvml``, initialised.
        handle: of the device.
    """

    source = "nvml"
    interval_s = 2.0  # some queries take a millisecond

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        name = self._ask("nvmlDeviceGetName")
        self.name: str | None = name.decode() if isinstance(name, bytes) else name
        self.clock_max_mhz: float | None = self._ask(
            "nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM
        )

    def sample(self) -> Sample:
        power = self._ask("nvmlDeviceGetPowerUsage")
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:  # drivers before 535 know it by its older name
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return Sample(
            clock_mhz=self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            temperature_c=self._ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
            power_w=None if power is None else power / 1e3,
            throttle=(
                None
                if reasons is None
                else tuple(name for bit, name in REASONS.items() if reasons & bit)
            ),
        )

    def energy_mj(self) -> float | None:
        energy: float | None = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return energy

    def memory_mib(self) -> float | None:
        """GPU memory of this process; None in a container that hides the host's process ids."""
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        used = [p.usedGpuMemory for p in processes if p.pid == os.getpid()]
        return used[0] / 2**20 if used and used[0] is not None else None

    def close(self) -> None:
        self._ask_nothing(self._nvml.nvmlShutdown)

    def _ask(self, function: str, *arguments: Any) -> Any:
        """Ask the driver; None where it does not know, or the binding is too old."""
        ask: Callable[..., Any] | None = getattr(self._nvml, function, None)
        if ask is None:
            return None
        try:
            return ask(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None

    def _ask_nothing(self, function: Callable[[], None]) -> None:
        try:
            function()
        except self._nvml.NVMLError:
            return


def open_nvml() -> NvmlProbe | None:
    """The probe of the GPU that CUDA calls device 0; None without a driver, GPU or nvidia-ml-py."""
    try:
        import pynvml
    except ImportError:
        return None
    bus = _first_cuda_device()
    if bus is None:
        return None
    try:
        pynvml.nvmlInit()
        return NvmlProbe(pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(bus))
    except pynvml.NVMLError:
        return None


def _first_cuda_device() -> str | None:
    """PCI bus id of CUDA's device 0, whose number differs from NVML's; holds its context open.

    The context takes hundreds of MiB: with it there from the start, no engine is charged for it.
    """
    found = started_driver()
    if found is None:
        return None
    driver, code = found
    device, context, bus = ctypes.c_int(), ctypes.c_void_p(), ctypes.create_string_buffer(64)
    steps: tuple[Callable[[], int], ...] = (
        lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
        lambda: driver.cuDeviceGetPCIBusId(bus, len(bus), device),
        lambda: driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device),
    )
    return None if code or any(step() for step in steps) else bus.value.decode()
