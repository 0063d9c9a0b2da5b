"""`roadshift doctor`."""

from __future__ import annotations

from .options import Json


def doctor(as_json: Json = False) -> None:
    """What this machine can do, and what to install for more."""
    from ..runtime.doctor import diagnose
    from ..runtime.terminal import print_json, table

    checks = diagnose()
    if as_json:
        print_json(checks)
        return
    marks = {True: "ok", None: "--", False: "!!"}
    table(
        "",
        ["", "what", "found", "advice"],
        [(marks[c["ok"]], c["check"], c["found"], c["advice"]) for c in checks],
    )
