"""`roadshift trust`: which keys a vehicle trusts, and signed changes of that."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Json
from .signing import Key

if TYPE_CHECKING:
    from ..runtime.signing import PublicKey, Trust

trust = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Which keys a vehicle trusts: create, show, change by signed updates.",
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder with trust.json.")]
UpdateFile = Annotated[Path, typer.Argument(metavar="UPDATE", help="A signed update.")]
PublicKeys = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE.pub", help="Public keys; may be given several times."),
]

ExpireKeys = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID=DAYS",
        help="From when on a key no longer counts, e.g. 3560f49c=365d; never takes it back.",
    ),
]


@trust.command()
def create(
    folder: Folder,
    maker: PublicKeys = None,
    garage: PublicKeys = None,
    maker_threshold: Annotated[int, typer.Option(min=1, help="How many makers must sign.")] = 1,
    garage_threshold: Annotated[int, typer.Option(min=1, help="How many garages must sign.")] = 1,
    expire_key: ExpireKeys = None,
    as_json: Json = False,
) -> None:
    """Write the first trust.json: makers sign models, garages what was adapted from a maker's."""
    from ..runtime.signing import create_trust

    made = create_trust(
        folder,
        _named(maker),
        _named(garage),
        maker_threshold=maker_threshold,
        garage_threshold=garage_threshold,
        expire_keys={key: until for key, until in _expiries(expire_key).items() if until},
    )
    _show(made, as_json)


@trust.command()
def show(folder: Folder, as_json: Json = False) -> None:
    """Show the keys, how many must sign, and what is revoked."""
    from ..runtime.signing import open_trust

    _show(open_trust(folder), as_json)


@trust.command()
def change(
    folder: Folder,
    key: Key,
    out: Annotated[Path, typer.Option("--out", "-o", help="The update to write.")],
    add_maker: PublicKeys = None,
    add_garage: PublicKeys = None,
    remove_key: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Ids of keys, or how they begin.")
    ] = None,
    expire_key: ExpireKeys = None,
    revoke_key: Annotated[
        list[str] | None,
        typer.Option(metavar="ID[=REASON]", help="Keys whose signatures no longer count."),
    ] = None,
    revoke_model: Annotated[
        list[str] | None, typer.Option(metavar="HASH[=REASON]", help="Bundles, by their hash.")
    ] = None,
    minimum_version: Annotated[
        int | None, typer.Option(min=0, help="Of a model; an older one is refused.")
    ] = None,
    maker_threshold: Annotated[int | None, typer.Option(min=1)] = None,
    garage_threshold: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Propose a change, signed by one maker; others add their signatures with `trust sign`.

    Vehicles take it with `trust update` once enough of the makers whom they trust have signed.
    """
    from ..runtime.atomic import write_whole
    from ..runtime.console.terminal import say
    from ..runtime.errors import SignatureError
    from ..runtime.signing import load_private_key, open_trust
    from ..runtime.signing.trust_updates import Changes, changed, propose
    from .signing import key_password

    old = open_trust(folder)
    changes = Changes(
        add={"maker": _named(add_maker), "garage": _named(add_garage)},
        remove=tuple(remove_key or ()),
        expire_keys=_expiries(expire_key),
        revoke_keys=_with_reasons(revoke_key),
        revoke_models=_with_reasons(revoke_model),
        minimum_version=minimum_version,
        thresholds={"maker": maker_threshold, "garage": garage_threshold},
    )
    new, private = changed(old, changes), load_private_key(key, key_password())
    if new == old.document.model_copy(update={"version": new.version}):
        raise typer.BadParameter("nothing would change; give --add-maker or another of these.")
    if private.public.id not in {*old.keys("maker"), *new.roles["maker"].keys}:
        raise SignatureError(
            f"{key}: is no maker's key in {folder}, so the update would not count; sign it with "
            "one, as roadshift trust show lists them."
        )
    write_whole(out, propose(new, [private]))
    say(f"Wrote {out}: version {old.document.version + 1} of what {folder} trusts.")


@trust.command("sign")
def sign_update(update: UpdateFile, key: Key) -> None:
    """Add a maker's signature to an update."""
    from ..runtime.atomic import write_whole
    from ..runtime.console.terminal import say
    from ..runtime.signing import load_private_key
    from ..runtime.signing.trust_updates import countersign, read_update
    from .signing import key_password

    private = load_private_key(key, key_password())
    write_whole(update, countersign(read_update(update), private, str(update)))
    say(f"Signed {update} with the key {private.public.id[:12]}.")


@trust.command("update")
def take_update(folder: Folder, update: UpdateFile, as_json: Json = False) -> None:
    """Put a signed update in the place of trust.json, on the vehicle."""
    from ..runtime.signing.trust_updates import read_update, update_trust

    _show(update_trust(folder, read_update(update)), as_json)


def _named(paths: list[Path] | None) -> dict[str, PublicKey]:
    """Public keys by their files' names, without suffix."""
    from ..runtime.errors import ConfigError
    from ..runtime.signing import load_public_key

    keys = dict[str, "PublicKey"]()
    for path in paths or ():
        name = path.name.removesuffix(".pub").removesuffix(".key").removesuffix(".pem")
        if name in keys:
            raise ConfigError(f"{path}: another key has the name {name!r}; rename the file.")
        keys[name] = load_public_key(path)
    return keys


def _with_reasons(entries: list[str] | None) -> dict[str, str]:
    from .parse import key_and_value

    given = map(key_and_value, entries or ())
    return {key.lower(): reason or "" for key, reason in given}


def _expiries(entries: list[str] | None) -> dict[str, datetime | None]:
    """Moments by keys' ids of "3560f49c=365d"; None of "3560f49c=never"."""
    from .parse import key_and_value, parse_days

    now, found = datetime.now(timezone.utc), dict[str, "datetime | None"]()
    for entry in entries or ():
        key, days = key_and_value(entry)
        if days is None:
            raise typer.BadParameter(f"{entry!r}: write it as ID=DAYS.", param_hint="--expire-key")
        never = days.strip().lower() == "never"
        until = None if never else now + timedelta(parse_days("--expire-key", days))
        found[key.lower()] = until
    return found


def _state(found: Trust, key_id: str, now: datetime) -> str:
    """A key's state: whether it counts, and until when."""
    problem, expires = found.problem(key_id, now), found.expires(key_id)
    return problem or (f"counts until {expires:%Y-%m-%d}" if expires else "counts")


def _show(found: Trust, as_json: bool) -> None:
    from ..runtime.console.terminal import print_json, say, table

    document = found.document.model_dump(mode="json")
    if as_json:
        print_json({"path": str(found.path), **document})
        return
    now = datetime.now(timezone.utc)
    rows: list[list[Any]] = [
        [role, found.document.keys[key].name, key[:12], _state(found, key, now)]
        for role, who in found.document.roles.items()
        for key in who.keys
    ]
    table(f"Trusted by {found.path}", ["role", "name", "key", "state"], rows)
    for role, who in found.document.roles.items():
        say(f"{who.threshold} of {len(who.keys)} {role} keys must sign.")
    say(
        f"Version {found.document.version}; models before {found.document.minimum_version} refused."
    )
    for model, reason in found.document.revoked.models.items():
        say(f"Revoked model {model[:12]}: {reason or 'no reason given'}.")
