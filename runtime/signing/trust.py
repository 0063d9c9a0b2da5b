"""The keys that a vehicle trusts: their roles, how many must sign, and what is revoked.

One document, ``trust.json`` in a folder, which only signed updates change; see `trust_updates`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from ..atomic import output_errors, write_whole
from ..errors import OutputError, SignatureError, arg
from ..given import no_path, path_of, whole_of
from ..regular_files import read_regular_file
from ..strict_json import JsonError, parse_json
from ..strict_model import Sha256, StrictModel
from ..words import counted, shortened
from .keys import PublicKey, public_key
from .statement import HIGHEST_VERSION, ROLES, Role, moment_of, text_of

TRUST_NAME = "trust.json"
LARGEST = 4 << 20


class TrustedKey(StrictModel):
    """A public key, a name for people, and until when it counts."""

    pem: str
    name: str = ""
    expires: str | None = None


class RoleKeys(StrictModel):
    """The keys of a role, and how many of them must sign."""

    keys: tuple[Sha256, ...] = ()
    threshold: Annotated[int, Field(ge=1)] = 1


class Revoked(StrictModel):
    """Keys by id and models by the hash of their manifest, each with a reason."""

    keys: dict[Sha256, str] = Field(default_factory=dict)
    models: dict[Sha256, str] = Field(default_factory=dict)


class TrustDocument(StrictModel):
    """The content of ``trust.json``.

    Attributes:
        version: grows by one with every change.
        minimum_version: of a model; an older one is refused, whoever signed it.
    """

    schema_version: Literal[1] = 1
    version: Annotated[int, Field(ge=1)] = 1
    keys: dict[Sha256, TrustedKey]
    roles: dict[Role, RoleKeys]
    revoked: Revoked = Revoked()
    minimum_version: Annotated[int, Field(ge=0, le=HIGHEST_VERSION)] = 0

    @model_validator(mode="after")
    def _can_be_met(self) -> TrustDocument:
        for key_id, key in self.keys.items():
            if public_key(key.pem, f"key {key_id[:12]}").id != key_id:
                raise ValueError(f"key {key_id[:12]} is listed under another key's id")
            if key.expires is not None:
                moment_of(key.expires)
        for role, who in self.roles.items():
            strange = set(who.keys) - set(self.keys)
            if strange:
                raise ValueError(f"{role} names a key that is not listed, {min(strange)[:12]}")
            if len(set(who.keys)) < len(who.keys):
                raise ValueError(f"{role} names a key twice")
            if who.keys and who.threshold > len(who.keys):
                raise ValueError(
                    f"{role} asks for {who.threshold} signatures of {counted(len(who.keys), 'key')}"
                )
        if not self.roles.get("maker", RoleKeys()).keys:
            raise ValueError("no key is a maker's")
        return self


@dataclass(frozen=True)
class Trust:
    """A trust document that was read, with its folder."""

    path: Path
    document: TrustDocument

    def threshold(self, role: Role) -> int:
        return self.document.roles.get(role, RoleKeys()).threshold

    def keys(self, role: Role) -> dict[str, PublicKey]:
        """The keys of a role by id, revoked and expired ones among them."""
        listed = self.document.roles.get(role, RoleKeys()).keys
        return {key: public_key(self.document.keys[key].pem, str(self.path)) for key in listed}

    def name(self, key_id: str) -> str:
        """A key as a sentence names it."""
        key = self.document.keys.get(key_id)
        short = key_id[:12] or "no key"
        return f"{key.name} ({short})" if key is not None and key.name else short

    def problem(self, key_id: str, now: datetime) -> str | None:
        """The reason why a listed key's signatures do not count, or None."""
        if key_id in self.document.revoked.keys:
            return f"was revoked ({self.document.revoked.keys[key_id] or 'no reason given'})"
        expires = self.expires(key_id)
        if expires is not None and expires <= now:
            return f"expired on {text_of(expires)}"
        return None

    def expires(self, key_id: str) -> datetime | None:
        """The moment from which on a listed key no longer counts; None for never."""
        key = self.document.keys.get(key_id)
        return moment_of(key.expires) if key is not None and key.expires is not None else None


def create_trust(
    folder: str | Path,
    makers: Mapping[str, PublicKey],
    garages: Mapping[str, PublicKey] | None = None,
    *,
    maker_threshold: int = 1,
    garage_threshold: int = 1,
    expire_keys: Mapping[str, datetime] | None = None,
) -> Trust:
    """Write the first ``trust.json`` of a vehicle, or of a fleet's image.

    Args:
        folder: made if it is missing.
        makers, garages: keys by a name for people.
        expire_keys: from when on keys no longer count, by their ids or how these begin; the others
            never expire.

    Raises:
        SignatureError: no maker, a key that has both roles, a threshold that cannot be met, or an
            expiry of a key that is none of these.
        ConfigError: an argument is malformed.
        OutputError: the folder holds one already, or cannot be written.
    """
    folder = path_of("folder", folder)
    groups: dict[Role, Mapping[str, PublicKey]] = {"maker": makers, "garage": garages or {}}
    for role, named in groups.items():
        for key in named.values():
            no_path(f"{role}s", key, "load_public_key")
    whole_of("maker_threshold", maker_threshold)
    whole_of("garage_threshold", garage_threshold)
    thresholds: dict[Role, int] = {"maker": maker_threshold, "garage": garage_threshold}
    keys: dict[str, dict[str, Any]] = {
        key.id: {"pem": key.pem, "name": name}
        for named in groups.values()
        for name, key in named.items()
    }
    for start, moment in (expire_keys or {}).items():
        keys[known_key(keys, start, folder)]["expires"] = text_of(moment)
    data = {
        "keys": keys,
        "roles": {
            role: {
                "keys": sorted({key.id for key in named.values()}),
                "threshold": thresholds[role],
            }
            for role, named in groups.items()
            if named
        },
    }
    trust = Trust(folder, trust_document(data, f"{arg('makers')} and {arg('garages')}"))
    path = folder / TRUST_NAME
    with output_errors(folder):
        folder.mkdir(exist_ok=True)
    if path.exists():
        raise OutputError(f"{path}: exists; change what is trusted by a signed update.")
    write_whole(path, trust_bytes(trust.document))
    return trust


def known_key(keys: Collection[str], start: str, where: str | Path) -> str:
    """The id of the key that begins so; SignatureError where none does, or several do."""
    found = [key for key in keys if key.startswith(start.lower())]
    if len(found) != 1 or not start:
        raise SignatureError(
            f"{where}: {len(found)} of its keys begin with {shortened(repr(start))}; give the id "
            "of one as roadshift trust show prints it."
        )
    return found[0]


def open_trust(folder: str | Path) -> Trust:
    """Read the ``trust.json`` of a folder.

    Raises:
        SignatureError: there is none, or it is damaged or inconsistent.
    """
    path = path_of("folder", folder) / TRUST_NAME
    try:
        content = read_regular_file(path, LARGEST)
    except FileNotFoundError as error:
        raise SignatureError(
            f"{folder}: has no {TRUST_NAME}; make it with roadshift trust create."
        ) from error
    except OSError as error:
        raise SignatureError(f"{path}: cannot be read ({error.strerror}).") from error
    return Trust(Path(folder), parse_trust(content, path))


def parse_trust(content: bytes, where: str | Path) -> TrustDocument:
    """The document of a file's content; SignatureError where it is damaged or inconsistent."""
    try:
        return trust_document(parse_json(content, unique_keys=True), str(where))
    except JsonError as error:
        raise SignatureError(f"{where}: is not JSON ({error}).") from error


def trust_document(data: Any, where: str) -> TrustDocument:
    """The document of parsed JSON; SignatureError where it is inconsistent."""
    try:
        document = TrustDocument.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        place = f" at {shortened(repr(key))}" if key else ""
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise SignatureError(f"{where}: invalid{place}: {reason}.") from error
    both = set.intersection(*(set(document.roles.get(r, RoleKeys()).keys) for r in ROLES))
    if both:
        raise SignatureError(f"{where}: key {min(both)[:12]} has both roles; give each its own.")
    return document


def trust_bytes(document: TrustDocument) -> bytes:
    """The content of ``trust.json``, and what makers sign."""
    return (json.dumps(document.model_dump(mode="json"), indent=1) + "\n").encode()
