"""The trust in the models of a run, while it goes on.

Verifying is no work for every look at the slots: it is done anew where ``trust.json`` is another
file, a model has other signatures, or the first signature or key has expired.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..bundle import Bundle, open_bundle
from ..errors import BundleError, SignatureError
from ..gentle import FrameGaps, gently, in_a_gap
from ..given import no_path
from ..signing import Trust, Verified, open_trust
from ..signing.statement import moment_of
from ..signing.trust import TRUST_NAME
from .changes import trusted_model, verified_now
from .state import Installed, SlotState
from .store import SlotStore


@dataclass(frozen=True)
class _Look:
    """The outcome of verifying a model in a folder, and when a signature or key of it ends next."""

    folder: str
    problem: SignatureError | BundleError | None
    until: datetime | None = None


class TrustWatch:
    """Follows a trust document, and the models that run by it.

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
        no_path("store", store, "open_slots")
        no_path("trust", trust, "open_trust")
        self._store, self._note, self._gaps = store, note, gaps
        self._file = _identity(trust.path)
        self._looks = dict[str, _Look]()  # by the model's hash

    def problem(self, state: SlotState, hash: str) -> SignatureError | BundleError | None:
        """The reason why a model in a slot may not run any more; the same object until a change.

        A `BundleError` where it is damaged; None where it may run, or where no slot holds it.
        """
        if (file := _identity(self.trust.path)) != self._file:
            self._file = file
            self._looks.clear()
            self.read()
        model = _holding(state, hash)
        if model is None:
            return None
        look = self._looks.get(hash)
        if look is None or look.folder != model.folder or self._is_over(look, state):
            look = self._look(state, model)
            if look.problem is not None and _holding(self._store.state(), hash) != model:
                return None  # its signatures were renewed meanwhile, the old ones removed
            held = {one.hash for one in state.slots.values()}
            self._looks = {key: one for key, one in self._looks.items() if key in held}
            self._looks[hash] = look
        return look.problem

    def renewed(self, bundle: Bundle) -> Bundle | None:
        """The same model with the newer signatures that came meanwhile; None where none did.

        Raises:
            SignatureError, BundleError: it is not trusted with these.
        """
        state = self._store.state()
        for slot, model in state.slots.items():
            if model.hash == bundle.hash and self._store.folder(model.folder) != bundle.path:
                return trusted_model(self._store, state, slot, self.trust)
        return None

    def forget(self, hash: str) -> None:
        """Verify a model anew at the next look: it was installed once more, or is tried anew."""
        self._looks.pop(hash, None)

    def read(self) -> None:
        """Read the document anew."""
        try:
            self.trust = open_trust(self.trust.path)
        except SignatureError as error:
            self._note(f"{error} What it said before counts on.")

    def _look(self, state: SlotState, model: Installed) -> _Look:
        try:
            with gently(self._gaps):
                found = self._verified(state, model)
        except (BundleError, SignatureError) as error:
            return _Look(model.folder, error)
        return _Look(model.folder, None, self._first_expiry(found, self._store.now(state)))

    def _is_over(self, look: _Look, state: SlotState) -> bool:
        return look.until is not None and look.until <= self._store.now(state)

    def _verified(self, state: SlotState, model: Installed) -> Verified:
        """The model with its signatures; its files were checked when it was opened."""
        in_a_gap()
        bundle = open_bundle(self._store.folder(model.folder), verify=False)
        in_a_gap()
        return verified_now(self._store, state, bundle, self.trust)

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
