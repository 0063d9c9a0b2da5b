"""A signature's file: a Sigstore bundle v0.3 with a DSSE envelope.

The format is that of OpenSSF model signing for keys (https://github.com/sigstore/model-transparency
and https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md): what is signed is
PAE(payload type, payload), and the bundle names its key by the SHA-256 of the public key's PEM.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from ..strict_json import JsonError, parse_json
from .keys import PrivateKey, PublicKey

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


class EnvelopeError(ValueError):
    """A file that is no signature in this format; the message is the reason, a phrase."""


@dataclass(frozen=True)
class Envelope:
    """Signed bytes.

    Attributes:
        key_id: of the key that is said to have signed; nothing is proven by it.
        payload: what was signed, UTF-8 JSON.
        signature: over `pre_authentication` of the payload.
    """

    key_id: str
    payload: bytes
    signature: bytes

    def is_signed_by(self, key: PublicKey) -> bool:
        return key.is_signature_of(self.signature, pre_authentication(self.payload))

    def to_bytes(self) -> bytes:
        """The file's content."""
        document = {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": self.key_id}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [
                    {"sig": base64.b64encode(self.signature).decode(), "keyid": ""},
                ],
            },
        }
        return (json.dumps(document, indent=1) + "\n").encode()


def signed(payload: bytes, key: PrivateKey) -> Envelope:
    """The envelope of ``payload``, signed with ``key``."""
    return Envelope(key.public.id, payload, key.sign(pre_authentication(payload)))


def pre_authentication(payload: bytes) -> bytes:
    """PAE of DSSE v1: what is signed, so that no payload passes for one of another type."""
    return b"DSSEv1 %d %s %d %s" % (
        len(PAYLOAD_TYPE),
        PAYLOAD_TYPE.encode(),
        len(payload),
        payload,
    )


def parse_envelope(content: bytes) -> Envelope:
    """The envelope of a file's content; who signed it is not checked here.

    Raises:
        EnvelopeError: it is no Sigstore bundle v0.3 that a key signed once.
    """
    try:
        document = parse_json(content, unique_keys=True)
    except JsonError as error:
        raise EnvelopeError(f"not JSON ({error})") from error
    if _at(document, "mediaType") != MEDIA_TYPE:
        raise EnvelopeError(f"its mediaType is not {MEDIA_TYPE}")
    envelope = _at(document, "dsseEnvelope")
    if _at(envelope, "payloadType") != PAYLOAD_TYPE:
        raise EnvelopeError(f"its payloadType is not {PAYLOAD_TYPE}")
    hint = _at(document, "verificationMaterial", "publicKey", "hint")
    signatures = _at(envelope, "signatures")
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise EnvelopeError("it has not exactly one signature")
    return Envelope(
        hint if isinstance(hint, str) else "",
        _decoded(_at(envelope, "payload"), "payload"),
        _decoded(_at(signatures[0], "sig"), "signature"),
    )


def _at(document: Any, *keys: str) -> Any:
    """The value under these keys, or None."""
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _decoded(text: Any, what: str) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise EnvelopeError(f"its {what} is not base64")
