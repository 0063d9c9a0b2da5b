"""Readings of the machine: NVML by a module that answers as it does, tegrastats by its lines."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from processes import until
from roadshift.runtime.probes import machine_state
from roadshift.runtime.probes import nvml as nvml_probe
from roadshift.runtime.probes.base import Sample
from roadshift.runtime.probes.linux import LinuxProbe
from roadshift.runtime.probes.machine_state import MachineMonitor, machine_warnings
from roadshift.runtime.probes.nvml import NvmlProbe
from roadshift.runtime.probes.tegrastats import TegrastatsProbe, open_tegrastats, parse_tegrastats

# ---- NVML --------------------------------------------------------------------------------------


class FakeNvml:
    """``pynvml`` of one GPU; functions named in ``missing`` are not supported by its driver."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    class NVMLError(Exception):
        pass

    def __init__(self, missing: tuple[str, ...] = (), **answers: Any) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self._missing, self._answers = missing, answers

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def function(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            if name in self._missing or name not in self._answers:
                raise self.NVMLError("Not Supported")
            return self._answers[name]

        return function


ANSWERS = {
    "nvmlDeviceGetName": "NVIDIA Test GPU",
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlDeviceGetClockInfo": 1755,
    "nvmlDeviceGetTemperature": 64,
    "nvmlDeviceGetPowerUsage": 312_500,
    "nvmlDeviceGetCurrentClocksEventReasons": 0,
    "nvmlDeviceGetTotalEnergyConsumption": 123_456,
    "nvmlShutdown": None,
}


def test_nvml_says_clock_heat_power_and_energy_in_our_units() -> None:
    nvml = FakeNvml(**ANSWERS)
    probe = NvmlProbe(nvml, "handle")
    assert (probe.name, probe.clock_max_mhz) == ("NVIDIA Test GPU", 1980)
    assert probe.sample() == Sample(
        clock_mhz=1755, temperature_c=64, power_w=312.5, rails_w={}, throttle=()
    )
    assert probe.energy_mj() == 123_456
    assert ("nvmlDeviceGetClockInfo", ("handle", FakeNvml.NVML_CLOCK_SM)) in nvml.calls
    probe.close()
    assert nvml.calls[-1] == ("nvmlShutdown", ())


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0x1, ()),  # idle
        (0x2 | 0x10 | 0x100, ()),  # clocks set by a user, sync boost, display
        (0x4, ("power_cap",)),
        (0x8 | 0x40, ("hardware_slowdown", "hardware_thermal")),
        (0x20 | 0x80, ("software_thermal", "power_brake")),
    ],
)
def test_only_what_holds_a_busy_clock_down_is_throttling(
    bits: int, reasons: tuple[str, ...]
) -> None:
    answers = {**ANSWERS, "nvmlDeviceGetCurrentClocksEventReasons": bits}
    assert NvmlProbe(FakeNvml(**answers), 0).sample().throttle == reasons


def test_an_older_driver_knows_the_reasons_by_their_older_name() -> None:
    answers = {**ANSWERS, "nvmlDeviceGetCurrentClocksThrottleReasons": 0x40}
    nvml = FakeNvml(("nvmlDeviceGetCurrentClocksEventReasons",), **answers)
    assert NvmlProbe(nvml, 0).sample().throttle == ("hardware_thermal",)


def test_the_bits_are_those_of_the_binding() -> None:
    pynvml = pytest.importorskip("pynvml")
    names = {
        "power_cap": "SwPowerCap",
        "hardware_slowdown": "HwSlowdown",
        "software_thermal": "SwThermalSlowdown",
        "hardware_thermal": "HwThermalSlowdown",
        "power_brake": "HwPowerBrakeSlowdown",
    }
    bits = {getattr(pynvml, f"nvmlClocksEventReason{names[n]}"): n for n in names}
    assert bits == nvml_probe.REASONS
    called = {name for name in ANSWERS if not hasattr(pynvml, name)}
    assert called == set()


def test_what_the_driver_does_not_support_is_none_and_nothing_else_is_lost() -> None:
    missing = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption")
    probe = NvmlProbe(FakeNvml(missing, **ANSWERS), 0)
    assert probe.energy_mj() is None
    assert probe.sample().power_w is None
    assert probe.sample().clock_mhz == 1755
    nothing = NvmlProbe(FakeNvml(), 0)
    assert nothing.sample() == Sample()
    assert (nothing.name, nothing.clock_max_mhz, nothing.memory_mib()) == (None, None, None)


def test_gpu_memory_is_this_process_s() -> None:
    def with_processes(*processes: tuple[int, int | None]) -> float | None:
        found = [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in processes]
        return NvmlProbe(FakeNvml(nvmlDeviceGetComputeRunningProcesses=found), 0).memory_mib()

    mine = os.getpid()
    assert with_processes((mine + 1, 2**30), (mine, 300 * 2**20)) == 300
    assert with_processes((mine + 1, 2**30)) is None  # a container's process id is another
    assert with_processes((mine, None)) is None


def test_without_a_driver_there_is_no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(nvml_probe.ctypes, "CDLL", missing)
    assert nvml_probe.open_nvml() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml_probe.open_nvml() is None


def test_nvml_s_device_is_cuda_s_first_whatever_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        retained = 0

        def cuInit(self, _: int) -> int:  # noqa: N802
            return 0

        def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
            device._obj.value = 7
            return ordinal

        def cuDeviceGetPCIBusId(self, bus: Any, _: int, device: Any) -> int:  # noqa: N802
            bus.value = f"0000:0{device.value}:00.0".encode()
            return 0

        def cuDevicePrimaryCtxRetain(self, _context: Any, device: Any) -> int:  # noqa: N802
            self.retained += device.value
            return 0

    driver = Driver()
    nvml = FakeNvml(nvmlInit=None, nvmlDeviceGetHandleByPciBusId="its handle", **ANSWERS)
    monkeypatch.setattr(nvml_probe.ctypes, "CDLL", lambda _: driver)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    probe = nvml_probe.open_nvml()
    assert probe is not None
    assert ("nvmlDeviceGetHandleByPciBusId", ("0000:07:00.0",)) in nvml.calls
    assert ("nvmlDeviceGetName", ("its handle",)) in nvml.calls
    assert driver.retained == 7  # the context is there before any engine
    driver.cuInit = lambda _: 100  # type: ignore[method-assign, assignment]
    assert nvml_probe.open_nvml() is None


# ---- tegrastats ----------------------------------------------------------------------------------

# Lines as boards print them: JetPack 5 on Xavier NX and AGX Orin, JetPack 6 on AGX Orin and
# Orin Nano, Jetson Linux 39 on AGX Orin with a third figure of each.
XAVIER_NX_5 = (
    "07-09-2024 13:31:31 RAM 3168/6851MB (lfb 2x4MB) SWAP 161/3426MB (cached 0MB) "
    "CPU [23%@1397,17%@1192,16%@1190,13%@1190,23%@1190,10%@1190] EMC_FREQ 2%@204 "
    "GR3D_FREQ 37%@[1109] VIC_FREQ 115 APE 150 AUX@45C CPU@46.5C thermal@45.6C AO@45C GPU@45.5C "
    "PMIC@50C VDD_IN 2763mW/2846mW VDD_CPU_GPU_CV 650mW/670mW VDD_SOC 650mW/711mW"
)
AGX_ORIN_5 = (
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) "
    "CPU [0%@729,0%@729,off,off] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 "
    "CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C Tdiode@33C SOC0@41.093C CV1@-256C GPU@-256C "
    "tj@44.343C SOC1@41.25C CV2@-256C VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW "
    "VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
AGX_ORIN_6 = (
    "05-09-2026 18:42:06 RAM 18207/62841MB (lfb 466x4MB) SWAP 86/31420MB (cached 0MB) "
    "CPU [14%@2188,5%@2112,8%@2035,14%@2201] EMC_FREQ 3%@2133 GR3D_FREQ 98%@[1300,1300] "
    "NVENC 79%@166 NVDEC off VIC 36%@115 PVA0_FREQ off APE 174 cpu@52.562C soc2@48.437C "
    "soc0@49.093C gpu@51.5C tj@52.562C soc1@49.656C VDD_GPU_SOC 12412mW/2412mW "
    "VDD_CPU_CV 1607mW/1607mW VIN_SYS_5V0 4707mW/4707mW"
)
ORIN_NANO_6 = (
    "10-08-2026 04:35:02 RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) "
    "CPU [38%@1497,2%@729,1%@729,0%@729,1%@729,0%@729] EMC_FREQ 61%@2133 GR3D_FREQ 99%@[612] "
    "NVDEC off NVJPG off VIC off OFA off APE 200 cpu@57.125C soc2@55.093C soc0@56.625C gpu@58.5C "
    "tj@58.5C soc1@55.0C VDD_IN 8251mW/8535mW VDD_CPU_GPU_CV 3512mW/1944mW VDD_SOC 2720mW/3659mW"
)
AGX_ORIN_7 = (
    "09-15-2026 12:19:33 RAM 999/62841MB CPU [0%@729,off] GR3D_FREQ 0% cpu@43.093C/43.093C "
    "soc2@39.625C/39.687C tj@42.906C/42.968C VDD_GPU_SOC 2792mW/2792mW/2792mW "
    "VDD_CPU_CV 0mW/0mW/0mW VIN_SYS_5V0 3918mW/3952mW/4019mW"
)


@pytest.mark.parametrize(
    ("line", "clock", "heat", "power"),
    [
        pytest.param(XAVIER_NX_5, 1109, 45.5, 2.763, id="Xavier NX, JetPack 5"),
        pytest.param(AGX_ORIN_5, None, 44.343, 2.340 + 0.390 + 4.025, id="AGX Orin, JetPack 5"),
        pytest.param(AGX_ORIN_6, 1300, 51.5, 12.412 + 1.607 + 4.707, id="AGX Orin, JetPack 6"),
        pytest.param(ORIN_NANO_6, 612, 58.5, 8.251, id="Orin Nano, JetPack 6"),
        pytest.param(AGX_ORIN_7, None, 42.906, 2.792 + 3.918, id="AGX Orin, Linux 39"),
    ],
)
def test_a_line_of_tegrastats_says_clock_heat_and_power(
    line: str, clock: float | None, heat: float, power: float
) -> None:
    sample = parse_tegrastats(line)
    assert sample is not None
    assert (sample.clock_mhz, sample.temperature_c) == (clock, heat)
    assert sample.power_w == pytest.approx(power)
    assert sample.throttle is None  # tegrastats does not tell


def test_rails_keep_their_names_and_now_is_taken_not_the_average() -> None:
    sample = parse_tegrastats(AGX_ORIN_6)
    assert sample is not None
    assert sample.rails_w == {"VDD_GPU_SOC": 12.412, "VDD_CPU_CV": 1.607, "VIN_SYS_5V0": 4.707}


@pytest.mark.parametrize("line", ["", "tegrastats: permission denied", "RAM 3/7MB CPU [0%@729]"])
def test_a_line_that_says_nothing_of_it_is_none(line: str) -> None:
    assert parse_tegrastats(line) is None


def test_a_running_tegrastats_is_read_and_the_clock_of_linux_fills_in(tmp_path: Path) -> None:
    gpu = tmp_path / "17000000.gpu"
    gpu.mkdir()
    (gpu / "cur_freq").write_text("918000000\n")
    (gpu / "max_freq").write_text("1300500000\n")
    script = f"import time; print({AGX_ORIN_7!r}, flush=True); time.sleep(60)"
    probe = TegrastatsProbe((sys.executable, "-c", script), devfreq=tmp_path)
    try:
        assert probe._seen.wait(60)  # a process starts slowly on a machine that is busy
        assert probe.sample().power_w == pytest.approx(6.71)
        assert probe.sample().clock_mhz == 918
        assert probe.clock_max_mhz == 1300.5
    finally:
        probe.close()
    # What ended knows nothing any more, once the reader has seen the end of the pipe.
    until(lambda: probe.sample().power_w is None)


def test_a_machine_without_tegrastats_is_no_jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert open_tegrastats() is None


# ---- Linux ---------------------------------------------------------------------------------------


def test_linux_says_the_clock_of_its_cores_and_the_heat_of_the_package(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n")

    cores = sorted(os.sched_getaffinity(0))
    for core in cores:
        write(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", "2400000")
        write(f"sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq", "3600000")
        write(f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count", "7")
    write("sys/class/thermal/thermal_zone0/type", "acpitz")
    write("sys/class/thermal/thermal_zone0/temp", "27800")
    write("sys/class/thermal/thermal_zone1/type", "x86_pkg_temp")
    write("sys/class/thermal/thermal_zone1/temp", "61000")
    write("proc/cpuinfo", "processor : 0\nmodel name\t: Test CPU @ 2.40GHz")
    probe = LinuxProbe(tmp_path)
    assert (probe.name, probe.clock_max_mhz) == ("Test CPU @ 2.40GHz", 3600)
    assert probe.sample() == Sample(clock_mhz=2400, temperature_c=61, throttle=())
    first = cores[0]
    write(f"sys/devices/system/cpu/cpu{first}/thermal_throttle/core_throttle_count", "8")
    assert probe.sample().throttle == ("cpu_thermal",)
    assert probe.sample().throttle == ()  # since the last look


def test_a_virtual_machine_that_says_nothing_gets_no_figures(tmp_path: Path) -> None:
    probe = LinuxProbe(tmp_path)
    assert probe.sample() == Sample()
    assert (probe.clock_max_mhz, probe.energy_mj(), probe.memory_mib()) == (None, None, None)


def test_cpu_time_of_others_is_that_of_the_machine_less_our_own(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    stat = tmp_path / "stat"
    stat.write_text(f"cpu  {1000 * ticks} 0 {200 * ticks} 9 9 {ticks} {ticks} {8 * ticks} 0 0\n")
    own = os.times()
    found = machine_state.others_core_seconds(stat)
    assert found == pytest.approx(1210 - own.user - own.system, abs=1.0)
    assert machine_state.others_core_seconds(tmp_path / "none") is None


# ---- over a run ----------------------------------------------------------------------------------


class Scripted:
    """A probe that gives its samples in turn; the last one for ever."""

    source, name, clock_max_mhz, interval_s = "script", "chip", 2000.0, 60.0

    def __init__(self, *samples: Sample, energies: tuple[float, ...] = ()) -> None:
        self._samples, self._energies = list(samples), list(energies)

    def sample(self) -> Sample:
        return self._samples.pop(0) if len(self._samples) > 1 else self._samples[0]

    def energy_mj(self) -> float | None:
        return self._energies.pop(0) if self._energies else None

    def memory_mib(self) -> None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``seconds(2.5)`` inside a segment makes it last so long."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(machine_state, "perf_counter", lambda: clock.now)

    def passes(amount: float) -> None:
        clock.now += amount

    return passes


def test_a_summary_has_means_extremes_and_every_reason(seconds: Any) -> None:
    probe = Scripted(
        Sample(1800, 60, 100, {"A": 1.0}, ()),
        Sample(1200, 82, 300, {"A": 3.0, "B": 1.0}, ("heat",)),
        Sample(1500, 70, 200, {}, ("power_cap", "heat")),
    )
    monitor = MachineMonitor(probe)
    for _ in range(2):
        with monitor.segment():
            seconds(2)
    said = monitor.summary()
    assert (said["clock_mhz"], said["clock_min_mhz"], said["clock_max_mhz"]) == (1500, 1200, 2000)
    assert (said["temperature_c"], said["power_w"], said["samples"]) == (82, 200, 4)
    assert said["rails_w"] == {"A": 2.0, "B": 1.0}
    assert said["throttle"] == ["heat", "power_cap"]
    assert any("(heat, power_cap)" in sentence for sentence in machine_warnings(said))


def test_what_is_unknown_stays_unknown(seconds: Any) -> None:
    monitor = MachineMonitor(Scripted(Sample()))
    with monitor.segment():
        seconds(5)
    said = monitor.summary()
    keys = ("clock_mhz", "clock_min_mhz", "temperature_c", "power_w", "throttle")
    assert [said[key] for key in keys] == [None] * 5
    assert monitor.energy_mj is None


def test_energy_is_the_counter_s_over_all_segments(seconds: Any) -> None:
    monitor = MachineMonitor(Scripted(Sample(power_w=1), energies=(10, 250, 1000, 1060)))
    for _ in range(2):
        with monitor.segment():
            seconds(1.5)
    assert monitor.energy_mj == (250 - 10) + (1060 - 1000)


def test_without_a_counter_energy_is_mean_power_times_time(seconds: Any) -> None:
    monitor = MachineMonitor(Scripted(Sample(power_w=10), Sample(power_w=20)))
    with monitor.segment():
        seconds(4)
    assert monitor.energy_mj == pytest.approx(15 * 4 * 1e3)


def test_a_segment_shorter_than_the_counter_s_step_has_no_energy(seconds: Any) -> None:
    monitor = MachineMonitor(Scripted(Sample(), energies=(0, 100, 100, 400)))
    with monitor.segment():
        seconds(3)
    with monitor.segment():
        seconds(0.5)
    assert monitor.energy_mj is None


def test_a_busy_neighbour_is_a_warning(seconds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    others = iter([100.0, 108.0])
    monkeypatch.setattr(machine_state, "others_core_seconds", lambda: next(others))
    monitor = MachineMonitor(Scripted(Sample()))
    with monitor.segment():
        seconds(4)
    said = monitor.summary()
    assert said["other_cores"] == pytest.approx(2)
    (sentence,) = machine_warnings(said)
    assert sentence.startswith("other processes kept 2.0 of ")
    assert machine_warnings({**said, "other_cores": 0.0}) == []
