"""State of the machine while something was timed: clocks, heat, power, throttling, energy.

A probe reads one kind of machine; `MachineMonitor` asks it while a run goes on. What a machine does
not say is None, never a guess.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from .base import Probe, Sample
from .cores import available_cores

ENERGY_SECONDS = 1.0  # the shortest segment whose energy is told: counters move in tenths of one
NOISY_SHARE = 0.05  # of the cores in use by others, above which a row carries a warning


def device_name(device: str) -> str:
    """Name of the device that computes: the GPU's for "cuda", the processor's for "cpu"."""
    from .driver import gpu
    from .linux import processor

    return gpu().name if device == "cuda" else processor() or f"{platform.machine()} CPU"


def open_probe(device: str) -> Probe:
    """The probe for engines on ``device``, "cpu" or "cuda": that of a Jetson, of NVML, of Linux."""
    from .linux import LinuxProbe
    from .nvml import open_nvml
    from .tegrastats import open_tegrastats

    jetson = open_tegrastats()
    if jetson is not None:
        return jetson
    return (open_nvml() if device == "cuda" else None) or LinuxProbe()


class MachineMonitor:
    """Collects samples of a probe over the segments of a run.

    Attributes:
        energy_mj: millijoules over all segments, by a counter or, without one, by mean power;
            None where neither is there or segments are shorter than a second.
    """

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._samples: list[Sample] = []
        self._energies: list[float | None] = []
        self._seconds = 0.0
        self._others = 0.0  # core seconds of other processes
        self._others_known = True

    @contextmanager
    def segment(self) -> Iterator[None]:
        """Watch what happens inside; samples are taken before, after, and now and then between."""
        first = len(self._samples)
        busy = others_core_seconds()
        self._samples.append(self._probe.sample())
        stop = threading.Event()
        thread = threading.Thread(target=self._watch, args=(stop,), daemon=True)
        thread.start()
        counter, started = self._probe.energy_mj(), perf_counter()
        try:
            yield
        finally:
            seconds, after = perf_counter() - started, self._probe.energy_mj()
            stop.set()
            thread.join()
            self._samples.append(self._probe.sample())
            self._seconds += seconds
            self._energies.append(self._energy(counter, after, seconds, first))
            now = others_core_seconds()
            if busy is None or now is None:
                self._others_known = False
            else:
                self._others += max(0.0, now - busy)

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(self._probe.interval_s):
            self._samples.append(self._probe.sample())

    def _energy(
        self, before: float | None, after: float | None, seconds: float, first: int
    ) -> float | None:
        if seconds < ENERGY_SECONDS:
            return None
        if before is not None and after is not None:
            return after - before
        powers = [s.power_w for s in self._samples[first:] if s.power_w is not None]
        return 1e3 * seconds * sum(powers) / len(powers) if powers else None

    @property
    def energy_mj(self) -> float | None:
        known = [energy for energy in self._energies if energy is not None]
        return sum(known) if known and len(known) == len(self._energies) else None

    def summary(self) -> dict[str, Any]:
        """JSON values.

        "source", "name", "clock_max_mhz" as of `Probe`; "clock_mhz", "power_w" and "rails_w": means
        of the samples; "clock_min_mhz" and "temperature_c": the lowest and the highest of them;
        "throttle": every reason seen, None if unknown; "other_cores": how many cores other
        processes kept busy, None if unknown; "samples".
        """
        clocks = [s.clock_mhz for s in self._samples if s.clock_mhz is not None]
        heat = [s.temperature_c for s in self._samples if s.temperature_c is not None]
        powers = [s.power_w for s in self._samples if s.power_w is not None]
        told = [s.throttle for s in self._samples if s.throttle is not None]
        rails = dict.fromkeys(name for s in self._samples for name in s.rails_w)
        return {
            "source": self._probe.source,
            "name": self._probe.name,
            "clock_mhz": _mean(clocks),
            "clock_min_mhz": min(clocks, default=None),
            "clock_max_mhz": self._probe.clock_max_mhz,
            "temperature_c": max(heat, default=None),
            "power_w": _mean(powers),
            "rails_w": {
                name: _mean([s.rails_w[name] for s in self._samples if name in s.rails_w])
                for name in rails
            },
            "throttle": sorted({reason for reasons in told for reason in reasons})
            if told
            else None,
            "other_cores": (
                self._others / self._seconds if self._others_known and self._seconds else None
            ),
            "samples": len(self._samples),
        }


def machine_warnings(summary: dict[str, Any]) -> list[str]:
    """Sentences on what makes a row of this machine hard to believe."""
    found = []
    if summary["throttle"]:
        found.append(
            f"the clock was held down ({', '.join(summary['throttle'])}): cool the machine, or "
            "raise its power limit, for a figure of what it can do."
        )
    others, cores = summary["other_cores"], os.cpu_count() or available_cores()
    if others is not None and others > NOISY_SHARE * cores:
        found.append(
            f"other processes kept {others:.1f} of {cores} cores busy meanwhile; stop them, and "
            "measure again."
        )
    return found


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def others_core_seconds(stat: Path = Path("/proc/stat")) -> float | None:
    """Core seconds since boot that went to anything but this process; None where unknown."""
    try:
        fields = stat.read_text().splitlines()[0].split()
        user, nice, system, _idle, _wait, irq, soft_irq, steal = map(int, fields[1:9])
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    own = os.times()
    busy = (user + nice + system + irq + soft_irq + steal) / ticks
    return float(busy - own.user - own.system)
