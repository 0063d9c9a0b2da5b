"""`roadshift run`: what is looked at before the frames are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from roadshift.commands.run import run
from roadshift.runtime.errors import OutputError
from roadshift.runtime.frames import live


@pytest.mark.parametrize("out", ["no/drive.mcap", "no/clip.mp4", "no/labels"])
def test_a_missing_output_folder_is_refused_before_a_bag_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("the frames were opened")

    monkeypatch.setattr(live, "open_source", opened)
    with pytest.raises(OutputError, match="no is not an existing folder; create it first"):
        run(str(tmp_path / "model"), ["drive.mcap.zstd"], tmp_path / out)
