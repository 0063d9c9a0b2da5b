"""A Jetson as ``tegrastats`` tells it."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

from .base import Probe, Sample

# Each as JetPack 5 and 6 print it. A rail is "now/average", Jetson Linux 39 adds a highest; so are
# temperatures there. A sensor that is switched off says -256C.
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)mW")
_HEAT = re.compile(r"\b([A-Za-z][A-Za-z0-9_]*)@(-?\d+(?:\.\d+)?)C")
_GPU = re.compile(r"\bGR3D_FREQ (\d+)%(?:@\[?(\d+))?")
_BOARD = ("VDD_IN", "VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
_GPU_HEAT = ("gpu", "tj")  # the GPU's own sensor is off while the GPU sleeps


def parse_tegrastats(line: str) -> Sample | None:
    """Parse one line; None for a line that names no rail, temperature or GPU.

    Power is VDD_IN, what the module draws, where the board has it (Orin Nano and NX, Xavier NX);
    otherwise the sum of the inputs that an AGX Orin has instead: VDD_GPU_SOC, VDD_CPU_CV and
    VIN_SYS_5V0. The clock is the first of GR3D_FREQ's, if it is printed and not 0 (asleep).
    """
    rails = {name: int(power) / 1e3 for name, power in _RAIL.findall(line) if name != "NC"}
    heat = {name.lower(): float(value) for name, value in _HEAT.findall(line)}
    gpu = _GPU.search(line)
    if not rails and not heat and gpu is None:
        return None
    inputs = [rails[name] for name in _BOARD if name in rails]
    warm = [heat[name] for name in _GPU_HEAT if heat.get(name, -256.0) > -256.0]
    clock = float(gpu[2]) if gpu and gpu[2] else 0.0
    return Sample(
        clock_mhz=clock or None,
        temperature_c=warm[0] if warm else None,
        power_w=rails["VDD_IN"] if "VDD_IN" in rails else sum(inputs) if inputs else None,
        rails_w=rails,
    )


class TegrastatsProbe(Probe):
    """A running ``tegrastats``, and its latest line; the GPU's memory is the host's.

    Args:
        command: what prints the lines.
        devfreq: where Linux keeps the GPU's clock, for lines that do not say it.
    """

    source = "tegrastats"
    interval_s = 0.5

    def __init__(
        self,
        command: tuple[str, ...] = ("tegrastats", "--interval", "200"),
        devfreq: Path = Path("/sys/class/devfreq"),
    ) -> None:
        self.name = _model(Path("/proc/device-tree/model"))
        clocks = sorted(path for suffix in _CLOCKS for path in devfreq.glob(f"*.{suffix}"))
        self._clock = clocks[0] if clocks else None
        self.clock_max_mhz = self._megahertz("max_freq")
        self._latest = Sample()
        self._seen = threading.Event()
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None  # a pipe, above
        for line in self._process.stdout:
            sample = parse_tegrastats(line)
            if sample is not None:
                self._latest = sample
                self._seen.set()
        self._latest = Sample()  # it ended: nothing is known any more
        self._seen.set()

    def sample(self) -> Sample:
        self._seen.wait(timeout=2.0)
        latest = self._latest
        if latest.clock_mhz is None:
            return replace(latest, clock_mhz=self._megahertz("cur_freq"))
        return latest

    def close(self) -> None:
        self._process.kill()  # it holds nothing that would need an orderly end
        self._process.wait()

    def _megahertz(self, file: str) -> float | None:
        try:
            return float((self._clock / file).read_text()) / 1e6 if self._clock else None
        except (OSError, ValueError):
            return None


_CLOCKS = ("gpu", "ga10b", "gv11b", "gp10b")  # the GPU's name by Jetson and JetPack


def open_tegrastats() -> TegrastatsProbe | None:
    """The probe of a Jetson; None on any other machine."""
    if shutil.which("tegrastats") is None:
        return None
    try:
        return TegrastatsProbe()
    except OSError:
        return None


def _model(file: Path) -> str | None:
    try:
        return file.read_text().strip("\0\n ") or None
    except OSError:
        return None
