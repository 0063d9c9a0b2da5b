"""A probe of the machine and one look through it: what every kind of probe has in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Sample:
    """One look at the machine.

    Attributes:
        clock_mhz: of the processor that computes.
        temperature_c: its own, in degrees Celsius.
        power_w: of the board, or of the GPU's.
        rails_w: by power rail, where there are several.
        throttle: why the clock is held down, () if it is not; None where the machine does not say.
    """

    clock_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    rails_w: dict[str, float] = field(default_factory=dict)
    throttle: tuple[str, ...] | None = None


class Probe(Protocol):
    """Reader of one kind of machine.

    Attributes:
        source: where its figures come from: "nvml", "tegrastats" or "linux".
        name: of the processor.
        clock_max_mhz: the most that its clock can be.
        interval_s: how often it may be asked during a run.
    """

    source: str
    name: str | None
    clock_max_mhz: float | None
    interval_s: float

    def sample(self) -> Sample:
        """One look."""
        ...

    def energy_mj(self) -> float | None:
        """Millijoules used since some moment, by a counter; None without one."""
        return None

    def memory_mib(self) -> float | None:
        """GPU memory of this process; None where nobody says, or it is the host's."""
        return None

    def close(self) -> None:
        """Stop looking."""
        return
