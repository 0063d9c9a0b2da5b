"""From the thread that reads frames to the one that takes them: all of them, or the newest."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Handoff(Generic[_T]):
    """A queue that ends, and counts what goes through it; any thread may call any method.

    Args:
        newest: hold one item only: a new one takes the place of one that still waits, which is
            dropped. Otherwise all items wait, and the caller bounds their number.

    Attributes:
        given: items that were accepted.
        dropped: of them, those that a newer one replaced.
    """

    def __init__(self, *, newest: bool) -> None:
        self._newest = newest
        self._items: deque[_T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._last: BaseException | None = None
        self.given = 0
        self.dropped = 0

    def put(self, item: _T) -> bool:
        """Hand an item over; False, and nothing is counted, where the queue has ended."""
        with self._changed:
            if self._ended:
                return False
            self.given += 1
            if self._newest and self._items:
                self._items.clear()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()
            return True

    def end(self, error: BaseException | None = None, *, discard: bool = False) -> None:
        """Accept nothing more; what waits can still be taken, unless ``discard``."""
        with self._changed:
            if not self._ended:
                self._ended, self._last = True, error
            if discard:
                self._items.clear()
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Tell whether nothing more is accepted."""
        return self._ended

    def get(self) -> _T | BaseException | None:
        """The next item, waiting for it; after the last one what `end` was given, every time."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended)
            return self._items.popleft() if self._items else self._last
