"""What tests of all rooms share: the cores of the machine, and a terminal's signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from roadshift.adapt.run.core_sharing import sharing_cores
from roadshift.runtime.probes import core_watch


@pytest.fixture(scope="session", autouse=True)
def _cores() -> Iterator[None]:
    """Beside other programs the suite takes twice its time, not twelve times."""
    with sharing_cores():
        yield


@pytest.fixture
def same_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No idle team (see `core_sharing`) begins or ends because of what other programs do."""
    monkeypatch.setattr(core_watch.WATCH, "look", lambda _: None)


@pytest.fixture(scope="session", autouse=True)
def _terminal() -> None:
    """Signals as a person's terminal gives them: what is started by nohup or "&" ignores some."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, whatever a command in this process has left."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
