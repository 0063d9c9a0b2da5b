"""Signals ask a run to stop between two steps; handlers are put back afterwards."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest
from roadshift.runtime.console.signals import stop_on_signals, unwind_on_signals


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_to_stop_and_interrupts_nothing(number: signal.Signals) -> None:
    with stop_on_signals() as stop_requested:
        assert not stop_requested()
        signal.raise_signal(number)
        assert stop_requested()


def test_a_second_interrupt_stops_at_once() -> None:
    with stop_on_signals() as stop_requested:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop_requested()


def test_a_second_request_to_terminate_still_waits_for_the_step() -> None:
    with stop_on_signals() as stop_requested:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop_requested()


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with stop_on_signals() as stop_requested:
            seen.extend([stop_requested(), signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, before]


def test_a_handler_that_python_did_not_set_becomes_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`signal.signal` tells None for it and takes no None back."""
    installed: dict[int, object] = {}

    def fake(number: int, handler: object) -> object:
        assert handler is not None
        installed[number] = handler

    monkeypatch.setattr(signal, "signal", fake)
    with stop_on_signals():
        pass
    assert installed == dict.fromkeys(
        (signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL
    )


def test_a_hang_up_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with unwind_on_signals() as unwinding, stop_on_signals() as stop_requested:
            signal.raise_signal(signal.SIGHUP)
            assert not stop_requested()
        assert unwinding.by is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_takes_no_steps_unwinds_and_knows_why(number: signal.Signals) -> None:
    with unwind_on_signals() as unwinding:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert unwinding.by == number


def test_a_second_interrupt_of_a_run_unwinds() -> None:
    with unwind_on_signals() as unwinding, stop_on_signals():
        signal.raise_signal(signal.SIGINT)
        assert unwinding.by is None
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert unwinding.by is signal.SIGINT


def test_an_interrupt_that_was_swallowed_is_not_lost() -> None:
    """As by a library whose import catches whatever comes."""

    def swallow() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            return

    with unwind_on_signals() as unwinding:
        swallow()
        with stop_on_signals() as stop_requested:
            assert stop_requested()
        assert unwinding.by is signal.SIGINT
    with stop_on_signals() as stop_requested:
        assert not stop_requested()
