"""Code in a pickle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Payload:
    """Creates the folder ``path`` when a pickle that holds it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)
