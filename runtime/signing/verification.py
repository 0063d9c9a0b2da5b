"""Checking that a bundle is one that a vehicle may trust, and saying why where it is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ..bundle import MANIFEST_NAME, Bundle, opened
from ..errors import SignatureError
from ..given import no_path
from ..words import counted
from .network import check_network
from .statement import ROLES, SIGNATURES, Network, Role, files_of, text_of
from .stored import PARENTS, Stored, check_contents, stored_signatures
from .trust import Trust

_MOST_ANCESTORS = 16


@dataclass(frozen=True)
class Verified:
    """A bundle whose signatures count.

    Attributes:
        bundle: what was checked; its `Bundle.content` is what to load.
        role: of those who signed.
        signers: ids of their keys.
        version: that they agree on; 0 where other programs signed, which state none.
        expires: the first of their signatures and keys to do so; None for never.
        ancestors: hashes from the bundle's parent to the maker's model; empty for a maker's own.
        maker_version: of the maker's model that it was adapted from, or of itself.
    """

    bundle: Bundle
    role: Role
    signers: tuple[str, ...]
    version: int
    expires: datetime | None
    ancestors: tuple[str, ...] = ()
    maker_version: int = 0


def verify_bundle(
    bundle: Bundle | str | Path,
    trust: Trust,
    *,
    now: datetime | None = None,
    minimum_version: int = 0,
) -> Verified:
    """Check a bundle's signatures, what they cover, and whether they count today.

    Every file that is loaded afterwards through ``bundle`` has the hash that was signed: what the
    manifest said when it was read is what is compared here, and what `Bundle.content` compares.

    Args:
        bundle: its folder; or as it was read, with ``verify=True`` for the content of every file.
        now: the time to compare with; unless given, the clock's.
        minimum_version: the least that is accepted, beside the trust document's own.

    Raises:
        SignatureError: too few of one role's keys signed it; a signature or key expired or was
            revoked; the model was revoked, or is older than what is accepted; the folder holds what
            no signature covers; or a garage signed what is not made from a maker's model, or is
            another network than that.
    """
    no_path("trust", trust, "open_trust")
    now = now or datetime.now(timezone.utc)
    bundle = opened(bundle)
    check_contents(bundle)
    reason = trust.document.revoked.models.get(bundle.hash)
    if reason is not None:
        raise SignatureError(
            f"{bundle.path}: this model was revoked ({reason or 'no reason given'}); install "
            "another."
        )
    folder = bundle.path / SIGNATURES
    stored, carried = stored_signatures(folder), stored_signatures(folder / PARENTS)
    if not stored:
        raise SignatureError(f"{bundle.path}: is not signed; sign it with roadshift sign.")
    current = [s for s in stored if s.statement.model == bundle.hash]
    if not current:
        raise SignatureError(
            f"{bundle.path}: its {MANIFEST_NAME} is not the one that was signed (SHA-256 "
            f"{bundle.hash[:12]}, signed was {stored[0].statement.model[:12]}); restore it, or "
            "sign it anew if you changed it yourself."
        )
    expected = files_of(bundle)
    for one in current:
        if dict(one.statement.files) != expected:
            raise SignatureError(
                f"{one.path}: covers other files than {MANIFEST_NAME} lists; sign the bundle anew."
            )
    found = _agreed(bundle, trust, current, now)
    floor = max(minimum_version, trust.document.minimum_version)
    if found.version < floor:
        raise SignatureError(
            f"{bundle.path}: has version {found.version}, and nothing before {floor} is accepted; "
            "an older model is never put back in by this way."
        )
    chain = _maker_of(bundle, carried, trust, now) if found.role == "garage" else []
    if chain:
        check_network(bundle, chain[-1].network)
    signers = tuple(sorted(one.envelope.key_id for one in found.signatures))
    ends = [
        moment
        for agreement in (found, *chain)
        for one in agreement.signatures
        for moment in (one.statement.expires, trust.expires(one.envelope.key_id))
        if moment is not None
    ]
    return Verified(
        bundle,
        found.role,
        signers,
        found.version,
        min(ends, default=None),
        tuple(agreement.model for agreement in chain),
        chain[-1].version if chain else found.version,
    )


@dataclass(frozen=True)
class _Agreement:
    """Signatures of one role about one model and version that are enough."""

    role: Role
    version: int
    signatures: tuple[Stored, ...]

    @property
    def model(self) -> str:
        return self.signatures[0].statement.model

    @property
    def network(self) -> Network | None:
        """The network that all of them state; None where one states none, or another."""
        stated = [one.statement.network for one in self.signatures]
        return stated[0] if all(one == stated[0] for one in stated) else None


def _agreed(bundle: Bundle, trust: Trust, stored: list[Stored], now: datetime) -> _Agreement:
    """The signatures of one role and version that are enough, the highest version first."""
    complaints = list[str]()
    for role in ROLES:
        found = _counting(stored, trust, role, now, complaints)
        in_order = sorted(found, key=lambda one: one.statement.version or 0)
        counting = {one.envelope.key_id: one for one in in_order}  # of two, a key's newest
        versions = {s.statement.version or 0 for s in counting.values()}
        for version in sorted(versions, reverse=True):
            same = tuple(s for s in counting.values() if (s.statement.version or 0) == version)
            if len(same) >= trust.threshold(role):
                return _Agreement(role, version, same)
            complaints.append(
                f"{counted(len(same), 'signature')} of a {role} for version {version}, and "
                f"{trust.threshold(role)} are needed"
            )
    raise SignatureError(f"{bundle.path}: is not trusted: {'; '.join(complaints)}.")


def _counting(
    stored: Iterable[Stored], trust: Trust, role: Role, now: datetime, complaints: list[str]
) -> Iterator[Stored]:
    """The signatures of a role's keys that count now; ``complaints`` gets why others do not."""
    keys = trust.keys(role)
    everyone = set(trust.document.keys)
    for one in stored:
        who = trust.name(one.envelope.key_id)
        key = keys.get(one.envelope.key_id)
        if key is None:
            stranger = f"the key {who} that signed it is not trusted here"
            if not one.envelope.key_id:
                stranger = "a signature does not say which key it is of"
            if one.envelope.key_id not in everyone and stranger not in complaints:
                complaints.append(stranger)
            continue
        problem = trust.problem(key.id, now)
        if problem is not None:
            complaints.append(f"the key {who} {problem}")
        elif not one.envelope.is_signed_by(key):
            complaints.append(f"the signature of {who} is forged or damaged")
        elif one.statement.role not in (None, role):
            complaints.append(f"{who} signed as {one.statement.role}, and is a {role} here")
        elif one.statement.expires is not None and one.statement.expires <= now:
            complaints.append(f"the signature of {who} expired on {text_of(one.statement.expires)}")
        else:
            yield one


def _check_not_withdrawn(bundle: Bundle, maker: _Agreement, trust: Trust) -> None:
    """Refuse what was adapted from a model that would be too old by itself."""
    floor = trust.document.minimum_version
    if maker.version < floor:
        raise SignatureError(
            f"{bundle.path}: was adapted from version {maker.version} of its maker's model, and "
            f"nothing before {floor} is accepted; adapt a newer one."
        )


def _maker_of(
    bundle: Bundle, carried: list[Stored], trust: Trust, now: datetime
) -> list[_Agreement]:
    """The signatures from a garage's parent to the maker's model that it was adapted from.

    Ancestors are not on the vehicle: the signatures about them are carried in the bundle. A
    garage's own signature names the parent of what it signed, and only one that counts is believed.
    """
    parent, chain = bundle.manifest.provenance.parent, list[_Agreement]()
    while parent is not None and len(chain) < _MOST_ANCESTORS:
        about = [s for s in carried if s.statement.model == parent]
        if not about:
            break
        if parent in trust.document.revoked.models:
            raise SignatureError(
                f"{bundle.path}: was adapted from a model that was revoked ({parent[:12]}: "
                f"{trust.document.revoked.models[parent] or 'no reason given'})."
            )
        chain.append(_agreed(bundle, trust, about, now))
        if chain[-1].role == "maker":
            _check_not_withdrawn(bundle, chain[-1], trust)
            return chain
        parents = {one.statement.parent for one in chain[-1].signatures}
        parent = parents.pop() if len(parents) == 1 else None  # garages that say different things
    raise SignatureError(
        f"{bundle.path}: a garage signed it, and no maker signed the model that it was adapted "
        "from; sign it again with the parent, as its maker signed it."
    )
