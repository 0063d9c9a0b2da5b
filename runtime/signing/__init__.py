"""Signatures of bundles: who made a model, and whether a vehicle may trust it.

A signature is a file of the format of OpenSSF model signing (a Sigstore bundle v0.3 with a DSSE
envelope of an in-toto statement); it covers the manifest and every file that the manifest lists.
"""

from __future__ import annotations

from .keys import Algorithm, PrivateKey, PublicKey, generate_key, load_private_key, load_public_key
from .sign import sign_bundle
from .statement import Statement
from .trust import Trust, create_trust, open_trust
from .trust_updates import update_trust
from .verification import Verified, verify_bundle

__all__ = [
    "Algorithm",
    "PrivateKey",
    "PublicKey",
    "Statement",
    "Trust",
    "Verified",
    "create_trust",
    "generate_key",
    "load_private_key",
    "load_public_key",
    "open_trust",
    "sign_bundle",
    "update_trust",
    "verify_bundle",
]
