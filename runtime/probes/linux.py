"""A CPU as Linux tells it: cpufreq and thermal zones under ``/sys``."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

from .base import Probe, Sample

_ZONES = ("x86_pkg_temp", "k10temp", "zenpower", "cpu-thermal", "cpu_thermal", "soc_thermal")


class LinuxProbe(Probe):
    """Mean clock of the cores, temperature of the package, thermal throttling counted by Intel's.

    A virtual machine mostly has none of these files; its figures are None.

    Args:
        root: where ``sys`` and ``proc`` are.
    """

    source = "linux"
    interval_s = 2.0

    def __init__(self, root: Path = Path("/")) -> None:
        cores = _cores()
        cpu = root / "sys/devices/system/cpu"
        self._clocks = [cpu / f"cpu{core}/cpufreq/scaling_cur_freq" for core in cores]
        self._throttles = [
            cpu / f"cpu{core}/thermal_throttle/core_throttle_count" for core in cores
        ]
        self._zone = _zone(root / "sys/class/thermal")
        self._count = self._throttle_count()
        limits = [_number(cpu / f"cpu{core}/cpufreq/cpuinfo_max_freq") for core in cores]
        known = [limit / 1e3 for limit in limits if limit is not None]
        self.name = processor(root / "proc/cpuinfo")
        self.clock_max_mhz = max(known, default=None)

    def sample(self) -> Sample:
        clocks = [clock for file in self._clocks if (clock := _number(file)) is not None]
        heat = _number(self._zone / "temp") if self._zone else None
        before, self._count = self._count, self._throttle_count()
        throttled = before is not None and self._count is not None and self._count > before
        return Sample(
            clock_mhz=sum(clocks) / len(clocks) / 1e3 if clocks else None,
            temperature_c=None if heat is None else heat / 1e3,
            throttle=None if self._count is None else ("cpu_thermal",) if throttled else (),
        )

    def _throttle_count(self) -> float | None:
        counts = [count for file in self._throttles if (count := _number(file)) is not None]
        return sum(counts) if counts else None


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _zone(folder: Path) -> Path | None:
    """The thermal zone of the CPU, by the names that drivers give it."""
    zones = {}
    for zone in sorted(folder.glob("thermal_zone*")):
        with suppress(OSError):
            zones[(zone / "type").read_text().strip()] = zone
    return next((zones[name] for name in _ZONES if name in zones), None)


def _number(file: Path) -> float | None:
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return None


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The CPU's name; None where the system does not tell it."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None
