"""Names of the standard library that Python 3.10 lacks; every other module takes them from here."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from typing import Self

    import tomllib
else:
    import tomli as tomllib
    from typing_extensions import Self

__all__ = ["Self", "tomllib"]
