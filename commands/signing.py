"""`roadshift keygen`, `sign`, `verify` and `pack`: models that a vehicle may trust."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated

import typer

from .options import BundleIn, Json

PASSWORD_VARIABLE = "ROADSHIFT_KEY_PASSWORD"

Key = Annotated[Path, typer.Option("--key", help="The private key's file.")]
TrustFolder = Annotated[
    Path, typer.Option("--trust", metavar="DIR", help="The folder with trust.json.")
]
BundleOrPacked = Annotated[
    Path,
    typer.Argument(metavar="BUNDLE", help="A model bundle: a folder, or a file of roadshift pack."),
]


def keygen(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The private key to write.")],
    algorithm: Annotated[str, typer.Option(help="ed25519 or ecdsa-p256.")] = "ed25519",
    encrypt: Annotated[
        bool,
        typer.Option("--encrypt", help=f"With a password, from {PASSWORD_VARIABLE} or typed."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a pair of keys: FILE, which its owner alone may read, and FILE.pub for those who check.

    The private key never leaves its file: no command copies or prints it.
    """
    from ..runtime.console.terminal import say
    from ..runtime.signing import generate_key
    from .tables import show

    password = (key_password() or typer.prompt("Password", hide_input=True)) if encrypt else None
    public = generate_key(out, algorithm, password)  # type: ignore[arg-type]
    document = {
        "private_key": str(out),
        "public_key": f"{out}.pub",
        "id": public.id,
        "algorithm": public.algorithm,
    }
    show(document, as_json, lambda: say(f"Wrote {out} and {out}.pub (key {public.id[:12]})."))


def sign(
    bundle: BundleIn,
    key: Key,
    role: Annotated[str, typer.Option("--as", help="maker, or garage.")] = "maker",
    parent: Annotated[
        Path | None,
        typer.Option(
            help="For a garage: the signed bundle that this one was adapted from, whose signatures "
            "are carried along."
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Grows with every model that shall replace another; that of the signatures which "
            "are there, or the seconds since 1970, unless given.",
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="DAYS", help="From when on it no longer counts, e.g. 365d; never."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign a bundle: its manifest and through it every file.

    Writes a file of OpenSSF model signing's format into BUNDLE/signatures. Sign last: whatever
    changes the bundle, such as an export, needs a new signature.
    """
    from ..runtime.bundle import open_bundle
    from ..runtime.console.terminal import say
    from ..runtime.signing import load_private_key, sign_bundle
    from ..runtime.signing.stored import stored_signature
    from .parse import parse_days
    from .tables import show

    until = None
    if expires is not None:
        until = datetime.now(timezone.utc) + timedelta(days=parse_days("--expires", expires))
    private = load_private_key(key, key_password())
    opened = open_bundle(bundle)
    path = sign_bundle(
        opened,
        private,
        role,  # type: ignore[arg-type]
        version=version,
        expires=until,
        parent=open_bundle(parent) if parent is not None else None,
    )
    statement = stored_signature(path).statement
    document = {
        "bundle": str(bundle),
        "hash": opened.hash,
        "signature": str(path),
        "role": role,
        "version": statement.version,
        "expires": statement.expires.isoformat() if statement.expires else None,
    }
    show(
        document,
        as_json,
        lambda: say(
            f"Signed {bundle} ({opened.hash[:12]}) as {role}, version {statement.version}: {path}."
        ),
    )


def verify(bundle: BundleOrPacked, trust: TrustFolder, as_json: Json = False) -> None:
    """Check that a bundle is whole, signed, and trusted today; exit code 8 where it is not."""
    from ..runtime.bundle import open_bundle
    from ..runtime.bundle.packed import named_as, unpacked
    from ..runtime.console.terminal import note, say
    from ..runtime.signing import open_trust, verify_bundle
    from .tables import show

    trusted = open_trust(trust)
    with (
        damage_as_distrust(bundle),
        unpacked(bundle, note=note) as folder,
        named_as(bundle, folder),
    ):
        found = verify_bundle(open_bundle(folder), trusted)
    names = ", ".join(trusted.name(key) for key in found.signers)
    document = {
        "bundle": str(bundle),
        "hash": found.bundle.hash,
        "role": found.role,
        "signers": list(found.signers),
        "version": found.version,
        "expires": found.expires.isoformat() if found.expires else None,
        "ancestors": list(found.ancestors),
    }
    show(
        document,
        as_json,
        lambda: say(
            f"{bundle}: trusted; signed as {found.role} by {names}, version {found.version}."
        ),
    )


def pack(
    bundle: BundleIn,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    as_json: Json = False,
) -> None:
    """Pack a bundle with its signatures into one file, the same bytes every time.

    `roadshift slot install` takes it; updaters such as Mender and RAUC carry it.
    """
    from ..runtime.bundle import open_bundle
    from ..runtime.bundle.packed import pack as pack_bundle
    from ..runtime.bundle.reader import sha256_of
    from ..runtime.console.terminal import say
    from .tables import show

    opened = open_bundle(bundle)
    path = pack_bundle(opened, out)
    size = path.stat().st_size
    document = {
        "bundle": str(bundle),
        "hash": opened.hash,
        "packed": str(path),
        "bytes": size,
        "sha256": sha256_of(path),
    }
    show(
        document,
        as_json,
        lambda: say(
            f"Packed {bundle} into {path} ({size / 2**20:.1f} MiB, SHA-256 {document['sha256']})."
        ),
    )


@contextmanager
def damage_as_distrust(bundle: Path) -> Iterator[None]:
    """End with the exit code of distrust where a bundle is there and is damaged."""
    from ..runtime.errors import BundleError, SignatureError

    try:
        yield
    except BundleError as error:
        if not os.path.exists(bundle):
            raise
        raise SignatureError(error.marked) from error


def key_password() -> str | None:
    """The password of private keys, from the environment; None for keys that have none."""
    return os.environ.get(PASSWORD_VARIABLE) or None
