"""Models that lie in their slots as they were installed, whoever signed them."""

from __future__ import annotations

from ..bundle import Bundle, open_bundle
from ..errors import BundleError
from ..signing.stored import check_contents
from .state import Installed
from .store import SlotStore


def whole_model(store: SlotStore, model: Installed) -> Bundle:
    """The bundle of a model in a slot: every file as it was installed, and none beside them.

    Raises:
        BundleError, SignatureError: it is damaged, or another.
    """
    bundle = open_bundle(store.folder(model.folder))
    if bundle.hash != model.hash:
        raise BundleError(f"{bundle.path}: is not the model that was installed; install it again.")
    check_contents(bundle)
    return bundle
