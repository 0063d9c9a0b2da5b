"""Numbers in sentences."""

from __future__ import annotations

import pytest
from roadshift.runtime.words import counted, percent, progressed, shortened, sized


def test_a_text_of_any_length_can_be_repeated() -> None:
    assert shortened("x" * 60) == "x" * 60
    assert shortened("ab" * 2500) == "ab" * 15 + "... of 5,000 characters"


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 tensors"), (1, "1 tensor"), (2, "2 tensors"), (30, "30 tensors")]
)
def test_a_noun_has_its_plural(number: int, text: str) -> None:
    assert counted(number, "tensor") == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1_500_000, "1.5 MB"),
        (2_961_408, "2.96 MB"),
        (999_999_999, "1000 MB"),
        (1_000_000_000, "1 GB"),
        (20_000_000_000, "20 GB"),
        (1_234_560_000_000, "1234.56 GB"),
    ],
)
def test_a_size_keeps_the_digits_that_were_asked_for(size: int, text: str) -> None:
    assert sized(size) == text


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.0, "0%"),
        (1e-6, "below 1%"),
        (0.006, "1%"),
        (0.5, "50%"),
        (0.994, "99%"),
        (0.997, "above 99%"),
        (1.0, "100%"),
    ],
)
def test_only_all_is_told_as_all_and_only_none_as_none(share: float, said: str) -> None:
    assert percent(share) == said


@pytest.mark.parametrize(
    ("done", "total", "said"),
    [(1, None, "1 frame"), (2, None, "2 frames"), (1, 8, "1/8 frames"), (0, 0, "0/0 frames")],
)
def test_how_far_something_is(done: int, total: int | None, said: str) -> None:
    assert progressed(done, total, "frames") == said
