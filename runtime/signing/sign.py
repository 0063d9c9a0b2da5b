"""Signing a bundle."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path

from ..atomic import output_errors, write_whole
from ..bundle import Bundle, opened
from ..errors import ConfigError, SignatureError, arg
from ..given import no_path
from .envelope import signed
from .keys import PrivateKey
from .network import check_network, network_of
from .statement import HIGHEST_VERSION, ROLES, SIGNATURES, Role, Statement, files_of
from .stored import PARENTS, SUFFIX, Stored, check_contents, stored_signatures

_DAY_S = 24 * 3600.0


def sign_bundle(
    bundle: Bundle | str | Path,
    key: PrivateKey,
    role: Role = "maker",
    *,
    version: int | None = None,
    expires: datetime | None = None,
    parent: Bundle | str | Path | None = None,
) -> Path:
    """Sign every file of a bundle as it was read, in its folder ``signatures``.

    The bundle itself stays what it is, and so does its hash. Who signs again replaces the own
    signature; signatures of an earlier state of the bundle are removed.

    Args:
        bundle: as it was read, or its folder; ``parent`` likewise.
        role: "maker" for a model of the maker's own; "garage" for one adapted from such a model,
            whose signatures are then carried along.
        version: whole number that grows with every model that shall replace another. Unless given,
            that of the signatures which are there, or else the seconds since 1970.
        expires: from when on the signature no longer counts.
        parent: for a garage, the bundle that this one was adapted from.

    Returns:
        The signature's file.

    Raises:
        SignatureError: the folder holds what no signature would cover, or the parent is not the
            one of the bundle's provenance, has no signature, or is another network.
        ConfigError: an argument does not fit the role, the version is out of range, or one
            that is there is too high to be taken over unsaid.
        OutputError: the signature cannot be written.
    """
    no_path("key", key, "load_private_key")
    if role not in ROLES:
        raise ConfigError(f"{arg('role')}: give one of {', '.join(ROLES)}, not {role!r}.")
    if (role == "garage") != (parent is not None):
        raise ConfigError(
            f"{arg('parent')}: a garage signs what was adapted from a maker's model, and gives "
            "that; a maker gives none."
        )
    is_whole = version is None or isinstance(version, int)
    if not is_whole or (version is not None and not 0 <= version <= HIGHEST_VERSION):
        raise ConfigError(
            f"{arg('version')}: must be from 0 to {HIGHEST_VERSION}, got {version!r}."
        )
    bundle = opened(bundle)
    if parent is not None and not isinstance(parent, Bundle):
        parent = opened(parent, "parent")
    check_contents(bundle)
    folder = bundle.path / SIGNATURES
    present = [s for s in stored_signatures(folder) if s.statement.model == bundle.hash]
    versions = [s.statement.version for s in present if s.statement.version is not None]
    if version is None:
        version = _agreed_version(bundle, versions)
    statement = Statement(
        name=bundle.path.resolve().name,
        files=files_of(bundle),
        role=role,
        version=version,
        parent=bundle.manifest.provenance.parent,
        expires=expires,
        signed_at=datetime.now(timezone.utc),
        network=network_of(bundle),
    )
    ancestors = _signatures_of(bundle, parent) if parent is not None else []
    makers = [one.statement for one in ancestors if one.statement.role != "garage"]
    if makers:  # the vehicle checks it, too
        check_network(bundle, makers[0].network)
    path = folder / f"{key.public.id[:16]}{SUFFIX}"
    with output_errors(path):
        folder.mkdir(exist_ok=True)
        for stale in stored_signatures(folder):
            if stale.statement.model != bundle.hash:
                stale.path.unlink()
        if ancestors:
            (folder / PARENTS).mkdir(exist_ok=True)
    for ancestor in ancestors:
        name = f"{ancestor.statement.model[:16]}-{ancestor.envelope.key_id[:16]}{SUFFIX}"
        write_whole(folder / PARENTS / name, ancestor.envelope.to_bytes())
    write_whole(path, signed(statement.payload(), key).to_bytes())
    return path


def _agreed_version(bundle: Bundle, stated: list[int]) -> int:
    """The version of the signatures that are there, whoever made them; or else the time.

    Raises:
        ConfigError: it is so high that a stranger may have put it there to be taken over.
    """
    version = max(stated, default=int(time.time()))
    if version > time.time() + _DAY_S:
        raise ConfigError(
            f"{bundle.path}: its signatures say version {version}, which is beyond the time in "
            f"seconds since 1970; give {arg('version', version)} if that is meant."
        )
    return version


def _signatures_of(bundle: Bundle, parent: Bundle) -> list[Stored]:
    """The signatures of the parent and of those before it."""
    if bundle.manifest.provenance.parent != parent.hash:
        made_from = bundle.manifest.provenance.parent
        raise SignatureError(
            f"{bundle.path}: was not made from {parent.path} as it is now ("
            f"{'it says no parent' if made_from is None else f'its parent is {made_from[:12]}'}, "
            f"and that one is {parent.hash[:12]}); give the bundle that was adapted, unchanged."
        )
    folder = parent.path / SIGNATURES
    own = [s for s in stored_signatures(folder) if s.statement.model == parent.hash]
    if not own:
        raise SignatureError(f"{parent.path}: is not signed; have its maker sign it first.")
    return [*own, *stored_signatures(folder / PARENTS)]
