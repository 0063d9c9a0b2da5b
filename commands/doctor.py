"""`roadshift doctor`."""

from __future__ import annotations

from .options import Json


def doctor(as_json: Json = False) -> None:
    """Show what this machine can do, and what to install for more."""
    from ..runtime.engines.doctor import diagnose
    from .tables import checks_table, show

    checks = diagnose()
    show(checks, as_json, lambda: checks_table(checks))
