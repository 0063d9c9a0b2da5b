"""The pictures of a bench: drawn, drawn again, and never over what something else drew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roadshift.runtime.bench import TimedRow
from roadshift.runtime.bench.plots import check_can_plot, write_plots
from roadshift.runtime.errors import OutputError


def measured(**changes: Any) -> TimedRow:
    row = {"artefact": "model.onnx", "precision": "fp32", "backend": "onnxruntime", "device": "cpu"}
    figures = {"p50_ms": 10.0, "p99_ms": 12.0, "miou": 50.0, "label_agreement": 100.0}
    return TimedRow({**row, **figures, "error": None, **changes}, np.array([10.0, 11.0, 12.0]))


def test_pictures_are_drawn_and_drawn_again(tmp_path: Path) -> None:
    folder = tmp_path / "new/plots"
    check_can_plot(folder)
    for _ in range(2):
        paths = write_plots([measured(bundle="fr\udcfc\x1bher")], folder)
        assert sorted(path.name for path in folder.iterdir()) == ["accuracy.svg", "latency.svg"]
    text = paths[0].read_text(encoding="utf-8")
    assert text.startswith("<svg ")
    assert r"fr\xfc\x1bher" in text


@pytest.mark.parametrize("name", ["latency.svg", "accuracy.svg"])
@pytest.mark.parametrize("content", [b"<svg></svg>", b"", b"\xff"])
def test_a_picture_of_another_program_is_not_overwritten(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    for attempt in (check_can_plot, lambda folder: write_plots([measured()], folder)):
        with pytest.raises(OutputError, match=rf"{name}: exists and was not drawn by this command"):
            attempt(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == content


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        check_can_plot(tmp_path / "file" / "plots")
    with pytest.raises(OutputError, match="bytes too long"):
        check_can_plot(tmp_path / ("x" * 256))
