"""Long stretches of a run's work other than steps: shown as they go, and cut short in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ...runtime.arguments import ProgressUpdate
from ...runtime.errors import TrainingError
from ...runtime.older_python import Self
from .budget import Deadline, Repeated
from .checksums import DamagedError, read_json_with_checksum, write_json_with_checksum
from .events import QUIET, Events
from .options import RunOptions

Item = TypeVar("Item")


class OutOfTimeError(Exception):
    """The time budget ended before anything was done that a stage cannot do without."""


@dataclass(frozen=True)
class Work:
    """The deadline and the events that every long stretch of a run's work shares."""

    deadline: Deadline = field(default_factory=lambda: Deadline(None))
    events: Events = QUIET

    @classmethod
    def of(cls, options: RunOptions) -> Self:
        """That of a run which begins now, or began when ``options`` say."""
        deadline = Deadline(options.time_budget_s, options.began, options.patience_s)
        return cls(deadline, options.events)

    @contextmanager
    def phase(
        self, title: str, total: int | None = None, unit: str = "frames"
    ) -> Iterator[Callable[[int], None]]:
        """Show a stretch of work from its first moment; gives ``done(so_many)``."""
        started = self.deadline.elapsed_s

        def done(count: int) -> None:
            seconds = self.deadline.elapsed_s - started
            rate = count / seconds if seconds > 0 else 0.0
            left = (total - count) / rate if total is not None and rate else None
            self.events.report_phase(ProgressUpdate(title, unit, count, total, rate, left))

        done(0)
        yield done

    def over(
        self,
        items: Sequence[Item],
        title: str,
        *,
        unit: str = "frames",
        in_order: bool = False,
        passes: float = 0.0,
    ) -> Iterator[Item]:
        """The items, shown as they go; as many as the deadline's part has time for.

        Where time may run out they come in an order of which every beginning is evenly spread.

        Args:
            in_order: keep them in their order all the same.
            passes: forward passes of a whole frame that the first is expected to take; without
                time for them there is none.

        Raises:
            RunInterrupted: a signal came.
        """
        if not items:
            return
        order: Sequence[int] = range(len(items))
        if self.deadline.limited and not in_order:
            order = spread(len(items))
        with self.phase(title, len(items), unit) as done:
            repeated = Repeated(self.deadline, passes)
            for count, index in enumerate(order):
                if not repeated.fits():
                    self.events.note(
                        f"{title}: {count} of {len(items)} {unit}, for more "
                        f"{self.deadline.name} leaves no time"
                    )
                    return
                self.events.stop_if_requested()
                yield items[index]
                done(count + 1)


def spread(count: int) -> list[int]:
    """The numbers below ``count`` in van der Corput's order: every beginning is evenly spread."""
    bits = max(1, (count - 1).bit_length())
    mirrored = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits))
    return [i for i in mirrored if i < count]


class PreparedFrames:
    """The frames that a stage is prepared for: all of them, unless its time ran out before.

    A run that is resumed prepares its stage for the same ones: they are kept in the run's folder.
    """

    def __init__(self) -> None:
        self.chosen: list[int] | None = None  # None: all
        self.settled = False  # steps follow from them: no others may take their place

    def of(self, count: int) -> Sequence[int]:
        """Numbers of the prepared frames, of ``count`` frames."""
        return range(count) if self.chosen is None else self.chosen

    def begin(self, kept: Path, *, settled: bool) -> None:
        """Begin another stage, or go on with the frames that `settle` kept.

        Args:
            kept: their file in the run's folder.
            settled: whether it took steps before.
        """
        self.chosen = None
        if kept.exists():
            self.chosen = _read(kept)
        self.settled = settled or self.chosen is not None

    def settle(self, kept: Path) -> None:
        """The stage's first step comes: write down which frames it learns from, if not all."""
        if self.chosen is not None and not self.settled:
            write_json_with_checksum(kept, {"frames": self.chosen})
        self.settled = True


def _read(kept: Path) -> list[int]:
    """The record that `PreparedFrames.settle` wrote.

    Raises:
        TrainingError: it was changed since.
    """
    try:
        return list(map(int, read_json_with_checksum(kept)["frames"]))
    except (OSError, DamagedError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{kept}: is damaged ({error}); delete {kept.parent} and start again."
        ) from error
