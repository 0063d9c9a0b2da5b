"""The demo's folder: made, cleared where a demo left it, and nothing else is ever cleared."""

from __future__ import annotations

from pathlib import Path

import pytest
from roadshift.export.demo import _prepare
from roadshift.runtime.errors import OutputError


def leave(folder: Path, *names: str) -> None:
    """Files and, where a name ends in a slash, folders below ``folder``."""
    for name in names:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()


@pytest.mark.parametrize(
    "names",
    [
        ("scenes/source/",),
        ("scenes/source/", "source.run/"),
        ("scenes/heldout/images/", "source/manifest.json", "adapted/manifest.json"),
    ],
)
def test_what_a_demo_left_is_cleared_on_request(tmp_path: Path, names: tuple[str, ...]) -> None:
    leave(tmp_path / "out", *names)
    with pytest.raises(OutputError, match="already exists; use overwrite=True"):
        _prepare(tmp_path / "out", overwrite=False)
    _prepare(tmp_path / "out", overwrite=True)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "names",
    [
        ("notes.txt",),
        ("scenes/source/", "notes.txt"),
        ("scenes/mine/",),  # a user's own scenes
        ("scenes/source/", "source/main.c"),  # and own source
        ("scenes",),
        ("source/manifest.json",),
    ],
)
def test_anything_else_is_never_cleared(tmp_path: Path, names: tuple[str, ...]) -> None:
    leave(tmp_path / "out", *names)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="it is not a demo's, so choose another name"):
            _prepare(tmp_path / "out", overwrite=overwrite)
    assert all((tmp_path / "out" / name).exists() for name in names)


def test_a_new_folder_is_made_and_a_name_that_is_too_long_refused(tmp_path: Path) -> None:
    _prepare(tmp_path / "out", overwrite=False)
    assert (tmp_path / "out").is_dir()
    with pytest.raises(OutputError, match="bytes too long"):
        _prepare(tmp_path / ("x" * 256), overwrite=False)
