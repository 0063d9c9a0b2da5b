"""One stretch of work after another on stderr, each from its first moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from ..words import progressed
from . import terminal

EVERY_S = 10.0  # between two lines about one phase, where stderr is no terminal
Update = Callable[[int, int | None, str], None]
Count = Callable[[int], None]


class PhaseDisplay:
    """Shows what a long command is doing: a bar a phase, or where stderr is no terminal, lines.

    A phase begins with its first `show` and ends with the first of another; there is a line when it
    begins and then one every `EVERY_S`. Use it as a context manager.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown: tuple[str, str] | None = None
        self._bar: AbstractContextManager[Update] | None = None
        self._update: Update = lambda *_: None
        self._last_line = 0.0
        self._stack = ExitStack()  # of what goes on when other phases come between
        self._tenths: dict[tuple[str, str], Update] = {}  # by title and unit

    def __enter__(self) -> PhaseDisplay:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
        self._stack.close()

    def show(
        self,
        title: str,
        unit: str,
        done: int,
        total: int | None,
        text: str = "",
        *,
        by_tenths: bool = False,
    ) -> None:
        """Show how far a phase is.

        Args:
            title: of the phase.
            unit: of what is counted, several of it.
            text: what else there is to say, such as `pace`.
            by_tenths: where stderr is no terminal, a line a tenth of the work, as `progress` has.
        """
        new = (title, unit) != self._shown
        if new:
            self.close()
            self._shown = title, unit
        if terminal.shows_bars():
            if self._bar is None:
                self._bar = terminal.progress(title, unit)
                self._update = self._bar.__enter__()
            self._update(done, total, text)
        elif by_tenths:
            if (title, unit) not in self._tenths:
                lines = self._stack.enter_context(terminal.progress(title, unit))
                self._tenths[title, unit] = lines
            self._tenths[title, unit](done, total, text)
        elif new or self._clock() - self._last_line >= EVERY_S:
            self._last_line = self._clock()
            far = progressed(done, total, unit) if done or total is not None else ""
            terminal.note(f"{title}: {' '.join(filter(None, [far, text])) or '...'}")

    @contextmanager
    def counting(self, title: str, total: int, unit: str = "frames") -> Iterator[Count]:
        """Show a phase from its first moment; gives ``done(so_many)``."""
        self.show(title, unit, 0, total)
        yield lambda done: self.show(title, unit, done, total)

    def close(self) -> None:
        """Take the last phase's bar away."""
        bar, self._bar, self._shown = self._bar, None, None
        if bar is not None:
            bar.__exit__(None, None, None)


def pace(rate: float, left_s: float | None) -> str:
    """``12.30/s, 40 s left``, as far as that is known.

    Args:
        rate: units a second; 0 before anything is timed.
        left_s: seconds; None where that is not known.
    """
    left = "" if left_s is None or not rate else f"{left_s:.0f} s left"
    return ", ".join(filter(None, [f"{rate:.2f}/s" if rate else "", left]))
