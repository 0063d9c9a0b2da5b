"""`roadshift doctor`."""

from __future__ import annotations

from .options import Json


def doctor(as_json: Json = False) -> None:
    """Show what this machine can do, and what to install for more."""
    from ..runtime.console.terminal import print_json
    from ..runtime.engines.doctor import diagnose
    from .tables import checks_table

    checks = diagnose()
    if as_json:
        print_json(checks)
    else:
        checks_table(checks)
