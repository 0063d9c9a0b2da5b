"""``--report`` of the commands that measure: their page says of which models, and what failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fleets import Fleet
from processes import python_output
from roadshift.commands.report import write_page
from roadshift.runtime.reporting.report import write_report


def embedded(page: Path) -> dict[str, Any]:
    """The document that a page holds for programs."""
    start = page.read_text().split('type="application/json"', 1)[1].split(">", 1)[1]
    found: dict[str, Any] = json.loads(start.split("</script>", 1)[0])
    return found


def test_pages_of_eval_and_bench_name_their_models(tmp_path: Path) -> None:
    bundle = Fleet(tmp_path).model(1)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        picture = np.zeros((16, 32, 3) if name == "images" else (16, 32), np.uint8)
        cv2.imwrite(str(tmp_path / name / "one.png"), picture)
    page = tmp_path / "page.html"
    pair = ("--images", tmp_path / "images", "--labels", tmp_path / "labels")
    for words in (("eval", bundle.path, *pair), ("bench", bundle.path, "--queries", 2)):
        python_output("-m", "roadshift.cli", *words, "--device", "cpu", "--report", page)
        assert [model["hash"] for model in embedded(page)["bundles"]] == [bundle.hash]
        assert "<h1>Roadshift: v1" in page.read_text()


def test_a_page_shows_three_frames_through_each_model(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    models = [fleet.model(number) for number in (1, 2)]
    frames, page = tmp_path / "frames", tmp_path / "page.html"
    frames.mkdir()
    for number in range(5):
        cv2.imwrite(str(frames / f"{number}.png"), np.full((16, 32, 3), 40 * number, np.uint8))
    write_page(page, "judge", None, [model.path for model in models], frames=[str(frames)])
    assert page.read_text().count("data:image/jpeg") == 3
    assert "From left to right: the frame, v1, v2" in page.read_text()
    write_page(page, "judge", None, models, frames=[str(tmp_path / "gone")])
    assert "data:image/jpeg" not in page.read_text(), "which ends no command that has done its work"


def test_a_black_box_is_no_model_of_a_page(tmp_path: Path) -> None:
    page, rows = tmp_path / "page.html", [{"method": "iapc", "miou": 25.0, "iou": {}}]
    write_page(page, "compare", rows, [tmp_path / "box.onnx", "http://127.0.0.1:1/"])
    assert embedded(page)["bundles"] == []


def test_rows_of_two_bundles_are_told_apart_and_say_why_one_failed(tmp_path: Path) -> None:
    row = {"artefact": "model.onnx", "backend": "onnxruntime", "p99_ms": 2.5}
    rows = [{**row, "bundle": "cars/one"}, {**row, "bundle": "cars/two"}]
    rows.append({**row, "bundle": "cars/two", "p99_ms": None, "error": "no GPU is here"})
    page = write_report(tmp_path / "page.html", results={"bench": rows}).read_text()
    for said in ("cars/one model.onnx onnxruntime", "cars/two model.onnx", "no GPU is here"):
        assert said in page
    alone = write_report(tmp_path / "page.html", results={"bench": rows[:1]}).read_text()
    assert "cars/one model.onnx" not in alone
