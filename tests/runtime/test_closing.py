"""Closing: a with block gives the object and closes it, also after an error, which goes on."""

from __future__ import annotations

import pytest
from roadshift.runtime.closing import Closing


class Held(Closing):
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_block_gives_the_object_and_closes_it_once() -> None:
    held = Held()
    with held as given:
        assert given is held
        assert held.closed == 0
    assert held.closed == 1


def test_an_error_closes_it_and_goes_on() -> None:
    held = Held()
    with pytest.raises(KeyError), held:
        raise KeyError
    assert held.closed == 1
