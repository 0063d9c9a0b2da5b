"""The folder of temporary files, and a note where it is not the one that was named."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def temporary_folder(note: Callable[[str], None]) -> Path:
    """The system's folder for temporary files.

    Args:
        note: told where files go when TMPDIR names a folder that Python passes over in silence.
    """
    folder = tempfile.gettempdir()
    named = os.environ.get("TMPDIR")
    if named and not (os.path.isdir(named) and os.access(named, os.W_OK | os.X_OK)):
        note(f"TMPDIR is {named}, where no file can be written; {folder} is used instead.")
    return Path(folder)
