"""`roadshift select`: its default, and its last line: the folders that the frames are from."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from roadshift.adapt.selecting.choice import DEFAULT
from roadshift.commands.select import _shares, select


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ((), ""),
        (("drives/dusk/1.png", "drives/dusk/2.png"), ""),
        (("drives/kitti/1.png", "drives/dusk/1.png", "drives/dusk/2.png"), " (dusk 2, kitti 1)"),
        (("drives/1.png", "drives/dusk/1.png", "drives/dusk/2.png"), " (dusk 2, . 1)"),
        (("a/images/1.png", "b/images/1.png"), " (a/images 1, b/images 1)"),
    ],
)
def test_the_shares_of_folders_are_said_where_there_are_several(
    tmp_path: Path, files: tuple[str, ...], told: str
) -> None:
    assert _shares([{"file": str(tmp_path / file)} for file in files]) == told


def test_frames_of_videos_have_no_folder() -> None:
    assert _shares([{"timestamp_ns": 0}, {"timestamp_ns": 33}]) == ""
    beside = [{"file": "/drives/dusk/1.png"}, {"file": "/drives/dusk/2.png"}, {"timestamp_ns": 0}]
    assert _shares(beside) == " (dusk 2, videos and bags 1)"
    assert _shares([*beside, {"file": "/drives/kitti/1.png"}]) == (
        " (dusk 2, kitti 1, videos and bags 1)"
    )


def test_the_command_chooses_as_the_function_does_unless_told_otherwise() -> None:
    assert inspect.signature(select).parameters["by"].default == DEFAULT
