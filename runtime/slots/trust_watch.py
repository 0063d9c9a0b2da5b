"""The trust in the model that serves, while its run goes on.

Verifying is no work for every look at the slots: it is done anew where ``trust.json`` is another
file, another model serves or has other signatures, or the first signature or key has expired.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from ..bundle import open_bundle
from ..errors import BundleError, SignatureError
from ..gentle import FrameGaps, gently, in_a_gap
from ..signing import Trust, Verified, open_trust
from ..signing.statement import moment_of
from ..signing.trust import TRUST_NAME
from .changes import verified_now
from .state import Installed, SlotState
from .store import SlotStore


class TrustWatch:
    """Follows a trust document, and the model that serves by it.

    Args:
        note: called with a sentence where the document is damaged; what it said before counts on.
        gaps: of the engine that serves, whose frames verifying is to leave alone.

    Attributes:
        trust: the document as it is now.
    """

    def __init__(
        self, store: SlotStore, trust: Trust, note: Callable[[str], None], gaps: FrameGaps
    ) -> None:
        self.trust = trust
        self._store, self._note, self._gaps = store, note, gaps
        self._file = _identity(trust.path)
        self._known: str | None = None  # folder of the model that was verified
        self._until: datetime | None = None  # the first expiry after that

    def problem(self, state: SlotState, hash: str) -> SignatureError | None:
        """The reason why a model in a slot may not run any more, once for every change.

        None where it may, where nothing changed since the last look, or where no slot holds it.

        Raises:
            BundleError: it is damaged.
        """
        if (file := _identity(self.trust.path)) != self._file:
            self._file, self._known = file, None
            self.read()
        model = _holding(state, hash)
        if model is None or (model.folder == self._known and not self._is_over(state)):
            return None
        self._known, self._until = model.folder, None
        try:
            with gently(self._gaps):
                found = self._verified(state, model)
            self._until = self._first_expiry(found, self._store.now(state))
        except (BundleError, SignatureError) as error:
            if _holding(self._store.state(), hash) != model:
                self._known = None  # its signatures were renewed meanwhile, the old ones removed
            elif isinstance(error, SignatureError):
                return error
            else:
                raise
        return None

    def read(self) -> None:
        """Read the document anew."""
        try:
            self.trust = open_trust(self.trust.path)
        except SignatureError as error:
            self._note(f"{error} What it said before counts on.")

    def _verified(self, state: SlotState, model: Installed) -> Verified:
        """The model with its signatures; its files were checked when it was opened."""
        in_a_gap()
        bundle = open_bundle(self._store.folder(model.folder), verify=False)
        in_a_gap()
        return verified_now(self._store, state, bundle, self.trust)

    def _is_over(self, state: SlotState) -> bool:
        return self._until is not None and self._until <= self._store.now(state)

    def _first_expiry(self, found: Verified, now: datetime) -> datetime | None:
        """The time to look again where nothing else happens: a signature or a key expires then."""
        keys = self.trust.document.keys.values()
        ends = [moment_of(key.expires) for key in keys if key.expires is not None]
        if found.expires is not None:
            ends.append(found.expires)
        return min((end for end in ends if end > now), default=None)


def _holding(state: SlotState, hash: str) -> Installed | None:
    """The slots' model of that hash."""
    return next((one for one in state.slots.values() if one.hash == hash), None)


def _identity(folder: Path) -> tuple[int, int, int] | None:
    """The marks by which one ``trust.json`` differs from the next; None where there is none."""
    try:
        found = os.stat(folder / TRUST_NAME)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
