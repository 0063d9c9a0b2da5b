"""Signed changes of what a vehicle trusts.

A new document takes the place of the old one only when enough of the makers whom the old one trusts
have signed it, and enough of the new makers too (as the root role of The Update Framework,
https://theupdateframework.github.io/specification/latest/, section 5.3).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..atomic import flush, locked_folder, output_errors, write_whole
from ..errors import SignatureError
from ..regular_files import read_regular_file
from ..strict_json import JsonError, parse_json
from ..words import shortened
from .keys import PrivateKey, PublicKey
from .statement import ROLES, Role, text_of
from .trust import (
    LARGEST,
    TRUST_NAME,
    Trust,
    TrustDocument,
    known_key,
    open_trust,
    parse_trust,
    trust_bytes,
    trust_document,
)

PAYLOAD_TYPE = "application/vnd.roadshift.trust+json"

MOST_SKIPPED = 1000  # versions, between what a vehicle has and what it takes

_MOST = 64  # signatures of an update


@dataclass(frozen=True)
class Changes:
    """Differences between a trust document and its next version.

    Attributes:
        add: keys by a name for people, by role.
        remove: ids of keys that lose their role, or how they begin.
        expire_keys: from when on keys no longer count, by their ids or how these begin, those that
            are added now among them; None takes an expiry back.
        revoke_keys, revoke_models: reasons by the id of a key, and by the hash of a bundle; or how
            it begins, for keys.
        thresholds: of signatures by role; None leaves one as it is.
    """

    add: Mapping[Role, Mapping[str, PublicKey]] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    expire_keys: Mapping[str, datetime | None] = field(default_factory=dict)
    revoke_keys: Mapping[str, str] = field(default_factory=dict)
    revoke_models: Mapping[str, str] = field(default_factory=dict)
    minimum_version: int | None = None
    thresholds: Mapping[Role, int | None] = field(default_factory=dict)


def changed(trust: Trust, changes: Changes) -> TrustDocument:
    """The next version of a trust document.

    Raises:
        SignatureError: a key is not known or its beginning names several, a model's hash is not
            whole, or the result is inconsistent: no maker is left, or a threshold cannot be met.
    """
    data = trust.document.model_dump(mode="json")
    for role in ROLES:
        who = data["roles"].setdefault(role, {"keys": [], "threshold": 1})
        for name, key in changes.add.get(role, {}).items():
            data["keys"].setdefault(key.id, {}).update(pem=key.pem, name=name)
            who["keys"] = [*dict.fromkeys([*who["keys"], key.id])]
        if changes.thresholds.get(role) is not None:
            who["threshold"] = changes.thresholds[role]
    for start in changes.remove:
        gone = known_key(trust.document.keys, start, trust.path)
        for who in data["roles"].values():
            who["keys"] = [key for key in who["keys"] if key != gone]
        data["keys"].pop(gone)
    for start, moment in changes.expire_keys.items():
        expires = text_of(moment) if moment is not None else None
        data["keys"][known_key(data["keys"], start, trust.path)]["expires"] = expires
    for start, reason in changes.revoke_keys.items():
        data["revoked"]["keys"][known_key(trust.document.keys, start, trust.path)] = reason
    for model, reason in changes.revoke_models.items():
        data["revoked"]["models"][_whole(trust, model)] = reason
    if changes.minimum_version is not None:
        data["minimum_version"] = changes.minimum_version
    data["version"] += 1
    return trust_document(data, f"{trust.path}: the change")


def propose(document: TrustDocument, keys: Iterable[PrivateKey]) -> bytes:
    """A signed update, to be handed to `update_trust` on every vehicle.

    Args:
        keys: makers who sign it now; `countersign` adds others.
    """
    return _signed(trust_bytes(document), [], keys)


def countersign(update: bytes, key: PrivateKey, where: str = "the update") -> bytes:
    """The update with one more maker's signature."""
    payload, signatures = _opened(update, where)
    return _signed(payload, [s for s in signatures if s["keyid"] != key.public.id], [key])


def update_trust(folder: str | Path, update: bytes, *, now: datetime | None = None) -> Trust:
    """Put a signed update in the place of ``trust.json``, whole or not at all.

    Raises:
        SignatureError: its version is not higher, or by more than `MOST_SKIPPED`; or too few of the
            old makers or of the new ones signed it.
        OutputError: it cannot be written.
    """
    with locked_folder(Path(folder)):  # of two programs, none puts back what the other replaced
        return _update(open_trust(folder), folder, update, now)


def _update(old: Trust, folder: str | Path, update: bytes, now: datetime | None) -> Trust:
    where = f"{folder}: the update"
    payload, signatures = _opened(update, where)
    new = Trust(old.path, parse_trust(payload, where))
    if new.document.version <= old.document.version:
        raise SignatureError(
            f"{where} has version {new.document.version}, and version {old.document.version} is "
            "there; an older or equal one is never taken."
        )
    if new.document.version > old.document.version + MOST_SKIPPED:
        raise SignatureError(
            f"{where} has version {new.document.version}, and version {old.document.version} is "
            f"there; more than {MOST_SKIPPED} versions are never skipped, so that none can be the "
            "last for ever."
        )
    now = now or datetime.now(timezone.utc)
    message = _pre_authentication(payload)
    for trust, whose in ((old, "makers trusted so far"), (new, "makers that it names")):
        by_key = {one["keyid"]: one["sig"] for one in signatures}
        valid = [
            key
            for key in trust.keys("maker").values()
            if trust.problem(key.id, now) is None
            and key.id in by_key
            and key.is_signature_of(by_key[key.id], message)
        ]
        if len(valid) < trust.threshold("maker"):
            raise SignatureError(
                f"{where} is signed by {len(valid)} of the {whose}, and {trust.threshold('maker')} "
                "must sign it; have it signed with roadshift trust sign."
            )
    write_whole(old.path / TRUST_NAME, payload)
    with output_errors(old.path):
        flush((old.path / TRUST_NAME).resolve().parent)  # a revocation outlives a power cut
    return new


def read_update(path: Path) -> bytes:
    """The content of an update's file; SignatureError where it cannot be read."""
    try:
        return read_regular_file(path, 2 * LARGEST)
    except OSError as error:
        raise SignatureError(f"{path}: cannot be read ({error.strerror}).") from error


def _whole(trust: Trust, model: str) -> str:
    """The hash of a model, which may be unknown here: all of it, for there is nothing to find."""
    if not re.fullmatch("[0-9a-f]{64}", model):
        raise SignatureError(
            f"{trust.path}: {shortened(repr(model))} is not the whole hash of a model; give all 64 "
            "of its digits, as roadshift info prints them."
        )
    return model


def _signed(payload: bytes, before: list[dict[str, Any]], keys: Iterable[PrivateKey]) -> bytes:
    message = _pre_authentication(payload)
    signatures = [*before, *({"keyid": k.public.id, "sig": k.sign(message)} for k in keys)]
    document = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {"keyid": one["keyid"], "sig": base64.b64encode(one["sig"]).decode()}
            for one in signatures
        ],
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def _opened(update: bytes, where: str) -> tuple[bytes, list[dict[str, Any]]]:
    """Payload and signatures of a DSSE envelope; nothing is checked but its form."""
    try:
        document = parse_json(update, unique_keys=True)
        if document["payloadType"] != PAYLOAD_TYPE:
            raise ValueError("of another type")
        payload = base64.b64decode(document["payload"], validate=True)
        signatures = [
            {"keyid": str(one["keyid"]), "sig": base64.b64decode(one["sig"], validate=True)}
            for one in document["signatures"][:_MOST]
        ]
    except (JsonError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise SignatureError(f"{where} is no signed update of {TRUST_NAME}.") from error
    return payload, signatures


def _pre_authentication(payload: bytes) -> bytes:
    """PAE of DSSE v1 under this payload's own type: no model's signature passes for it."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
