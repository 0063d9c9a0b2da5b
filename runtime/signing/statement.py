"""The statement that is signed: every file of a bundle with its hash, and what we add to that.

An in-toto Statement v1 whose predicate is OpenSSF model signing's, version 1.0: a verifier of
theirs reads ours, and this module reads theirs. What they let others add, and ignore, is in the
predicate's key "roadshift": the role, the model's version, and when the signature expires.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, get_args

from ..bundle import MANIFEST_NAME, Bundle
from ..strict_json import JsonError, parse_json

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
SIGNATURES = "signatures"  # the folder of a bundle that holds them; it is not signed itself

Role = Literal["maker", "garage"]
ROLES: tuple[Role, ...] = get_args(Role)

HIGHEST_VERSION = (1 << 53) - 1  # that every program reading JSON holds exactly

_SHA256 = re.compile(r"[0-9a-f]{64}")


class StatementError(ValueError):
    """A payload that says nothing about a bundle; the message is the reason, a phrase."""


@dataclass(frozen=True)
class Network:
    """A network without its weights, see `network`.

    Attributes:
        described: SHA-256 of what the manifest says of it.
        graphs: SHA-256 of each ONNX model without its weights, by file name.
    """

    described: str
    graphs: Mapping[str, str]


@dataclass(frozen=True)
class Statement:
    """One signer's word about a bundle.

    Attributes:
        name: of the model, for people; nothing depends on it.
        files: SHA-256 in hexadecimal by file name, the manifest's among them.
        role: as whom it was signed; None where another program signed.
        version: grows with every model that shall replace another; None likewise.
        parent: hash of the bundle that this one was made from; None where there is none.
        expires: from when on the signature no longer counts; None for never.
        signed_at: when, by the signer's clock; for people.
        network: that the bundle's weights are of; None where the signer did not say.
    """

    name: str
    files: Mapping[str, str]
    role: Role | None = None
    version: int | None = None
    parent: str | None = None
    expires: datetime | None = None
    signed_at: datetime | None = None
    network: Network | None = None

    @property
    def model(self) -> str:
        """SHA-256 of the bundle's manifest, which is the bundle's hash."""
        return self.files[MANIFEST_NAME]

    def payload(self) -> bytes:
        """The bytes to sign: UTF-8 JSON."""
        names = sorted(self.files)
        root = hashlib.sha256(b"".join(bytes.fromhex(self.files[name]) for name in names))
        ours: dict[str, Any] = {
            "role": self.role,
            "version": self.version,
            "parent": self.parent,
        }
        for key, moment in (("expires", self.expires), ("signed_at", self.signed_at)):
            if moment is not None:
                ours[key] = text_of(moment)
        if self.network is not None:
            ours["network"] = {
                "described": self.network.described,
                "graphs": dict(sorted(self.network.graphs.items())),
            }
        document = {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": self.name, "digest": {"sha256": root.hexdigest()}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": [SIGNATURES],
                },
                "resources": [
                    {"name": name, "algorithm": "sha256", "digest": self.files[name]}
                    for name in names
                ],
                "roadshift": ours,
            },
        }
        return json.dumps(document, indent=1, ensure_ascii=True).encode()


def files_of(bundle: Bundle) -> dict[str, str]:
    """SHA-256 by file name of all that a bundle consists of, as it was read."""
    listed = {artefact.path: artefact.sha256 for artefact in bundle.manifest.artefacts}
    return {MANIFEST_NAME: bundle.hash, **listed}


def parse_statement(payload: bytes) -> Statement:
    """The statement of a signed payload.

    Raises:
        StatementError: it is of another kind, inconsistent, or about no bundle.
    """
    try:
        document = parse_json(payload, unique_keys=True)
    except JsonError as error:
        raise StatementError(f"what is signed is not JSON ({error})") from error
    if not isinstance(document, dict) or document.get("_type") != STATEMENT_TYPE:
        raise StatementError("what is signed is no in-toto statement")
    if document.get("predicateType") != PREDICATE_TYPE:
        raise StatementError(f"what is signed is no model (its predicate is not {PREDICATE_TYPE})")
    predicate = document.get("predicate")
    if not isinstance(predicate, dict):
        raise StatementError("what is signed has no predicate")
    files = _files(predicate)
    name = _checked_name(document.get("subject"), files)
    ours = predicate.get("roadshift", {})
    if not isinstance(ours, dict):
        raise StatementError("what Roadshift adds is no object")
    role, version = ours.get("role"), ours.get("version")
    if role is not None and role not in ROLES:
        raise StatementError(f"its role is none of {', '.join(ROLES)}")
    if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
        raise StatementError("its version is no whole number")
    if version is not None and not 0 <= version <= HIGHEST_VERSION:
        raise StatementError(f"its version is not from 0 to {HIGHEST_VERSION}")
    parent = ours.get("parent")
    if parent is not None and not (isinstance(parent, str) and _SHA256.fullmatch(parent)):
        raise StatementError("its parent is no SHA-256")
    expires, signed_at = _moment(ours, "expires"), _moment(ours, "signed_at")
    network = _network(ours.get("network"))
    return Statement(name, files, role, version, parent, expires, signed_at, network)


def _network(found: Any) -> Network | None:
    if found is None:
        return None
    described = found.get("described") if isinstance(found, dict) else None
    graphs = found.get("graphs") if isinstance(found, dict) else None
    if not isinstance(described, str) or not isinstance(graphs, dict):
        raise StatementError("its network is no object of hashes")
    for digest in (described, *graphs.values()):
        if not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
            raise StatementError("its network has something that is no SHA-256")
    return Network(described, graphs)


def _files(predicate: dict[str, Any]) -> dict[str, str]:
    serialization = predicate.get("serialization")
    wanted = {"method": "files", "hash_type": "sha256"}
    if not isinstance(serialization, dict) or any(
        serialization.get(key) != value for key, value in wanted.items()
    ):
        raise StatementError("it does not list files by their SHA-256")
    resources, files = predicate.get("resources"), dict[str, str]()
    for resource in resources if isinstance(resources, list) else ():
        name, digest = (
            (resource.get("name"), resource.get("digest"))
            if isinstance(resource, dict)
            else (None, None)
        )
        if not isinstance(name, str) or not isinstance(digest, str):
            raise StatementError("it lists a file without name or hash")
        if name in files or not _SHA256.fullmatch(digest):
            raise StatementError("it lists a file twice, or with something that is no SHA-256")
        files[name] = digest
    if MANIFEST_NAME not in files:
        raise StatementError(f"it lists no {MANIFEST_NAME}")
    return files


def _checked_name(subjects: Any, files: dict[str, str]) -> str:
    """The subject's name, if its hash is that of the files' hashes in the order of their names."""
    subject = subjects[0] if isinstance(subjects, list) and len(subjects) == 1 else None
    digest = subject.get("digest") if isinstance(subject, dict) else None
    if not isinstance(subject, dict) or not isinstance(digest, dict):
        raise StatementError("it has not exactly one subject")
    root = hashlib.sha256(b"".join(bytes.fromhex(files[name]) for name in sorted(files)))
    if digest.get("sha256") != root.hexdigest():
        raise StatementError("its files do not hash to its subject")
    name = subject.get("name")
    return name if isinstance(name, str) else ""


def text_of(moment: datetime) -> str:
    """The moment as text, in UTC and whole seconds, as `moment_of` reads it."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(ours: dict[str, Any], key: str) -> datetime | None:
    value = ours.get(key)
    if value is None:
        return None
    try:
        return moment_of(value)
    except ValueError as error:
        raise StatementError(f"its {key} is no time") from error


def moment_of(value: object) -> datetime:
    """The moment that a text such as "2027-01-31T12:00:00Z" names, in UTC.

    Raises:
        ValueError: it names none.
    """
    if not isinstance(value, str):
        raise ValueError(value)
    return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
