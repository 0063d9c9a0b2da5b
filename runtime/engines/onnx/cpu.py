"""ONNX Runtime on the CPU, with threads that spin or sleep by whether cores are scarce."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from ...errors import RoadshiftError
from ...probes import core_watch


class SharedCpuSession:
    """One model in two sessions, of which one at a time runs: its threads spin, or they sleep.

    Each is made when it is first needed. They give the same results: the number of threads, which
    decides the order of sums, is the same.

    Args:
        make: gives a session whose waiting threads spin, or not.
    """

    def __init__(self, make: Callable[[bool], Any]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._sessions: dict[bool, Any] = {}
        with self._lock:
            core_watch.WATCH.add(self)
            self._current = self._session(not core_watch.WATCH.scarce)

    def share_cores(self, scarce: bool) -> None:
        """Run the other session from the next call on; the same one where it cannot be made."""
        with self._lock:
            try:
                self._current = self._session(not scarce)
            except RoadshiftError as error:  # its file was exchanged meanwhile
                logging.getLogger("roadshift").warning("Threads wait as before: %s", error)

    def _session(self, spinning: bool) -> Any:
        if spinning not in self._sessions:
            self._sessions[spinning] = self._make(spinning)
        return self._sessions[spinning]

    def run(self, *arguments: Any) -> list[Any]:
        """Run the session in use, with the arguments of a session's ``run``."""
        found: list[Any] = self._current.run(*arguments)
        return found

    def close(self) -> None:
        """Be told no more of the cores, whoever still holds this object."""
        core_watch.WATCH.remove(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._current, name)
