"""A phase shows itself from its first moment, and not too often."""

from __future__ import annotations

import pytest
from roadshift.runtime.console import terminal
from roadshift.runtime.console.phases import EVERY_S, PhaseDisplay, pace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sentences that are said where stderr is no terminal."""
    said: list[str] = []
    monkeypatch.setattr(terminal, "shows_bars", lambda: False)
    monkeypatch.setattr(terminal, "note", said.append)
    return said


def test_a_phase_has_a_line_when_it_begins_and_one_every_ten_seconds(notes: list[str]) -> None:
    clock = Clock()
    with PhaseDisplay(clock) as display:
        for done in range(101):
            display.show("labelling", "frames", done, 100, pace(4.0, (100 - done) / 4))
            clock.now += 0.25
        display.show("judging", "frames", 0, 8)
    assert notes[0] == "labelling: 0/100 frames 4.00/s, 25 s left"
    assert notes[1] == f"labelling: {4 * EVERY_S:.0f}/100 frames 4.00/s, 15 s left"
    assert notes[-1] == "judging: 0/8 frames"
    assert len(notes) == 1 + 2 + 1


def test_a_phase_that_counts_nothing_says_its_name(notes: list[str]) -> None:
    with PhaseDisplay() as display:
        display.show("measuring precisions", "frames", 0, None)
    assert notes == ["measuring precisions: ..."]


def test_steps_have_a_line_a_tenth_whatever_comes_between(notes: list[str]) -> None:
    with PhaseDisplay() as display:
        for step in range(1, 101):
            display.show("step", "steps", step, 100, by_tenths=True)
            if step % 25 == 0:
                display.show("looking", "frames", 0, None)
    steps = [note for note in notes if note.startswith("step")]
    assert len(steps) == 11
    assert (steps[0], steps[-1]) == ("step: 1/100 steps", "step: 100/100 steps")
    assert notes.count("looking: ...") == 4


def test_on_a_terminal_each_phase_has_its_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "shows_bars", lambda: True)
    with PhaseDisplay() as display:
        for title in ("decoding", "step", "decoding"):
            for done in range(3):
                display.show(title, "frames", done, 2, "text", by_tenths=title == "step")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("rate", "left_s", "said"),
    [
        (0.0, None, ""),
        (0.0, 0.0, ""),  # nothing is timed, so nothing is known
        (2.0, None, "2.00/s"),
        (2.0, 9.6, "2.00/s, 10 s left"),
    ],
)
def test_no_rate_is_said_before_one_is_known(rate: float, left_s: float | None, said: str) -> None:
    assert pace(rate, left_s) == said
