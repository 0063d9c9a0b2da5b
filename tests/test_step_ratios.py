"""docs/fused-losses.md: each ratio of a step's rate stands in its file, by its clock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "fused-losses.md").read_text(encoding="utf-8")
FILES = {  # by network, size and clock
    ("fast_scnn", "512x256", "processor"): "step-iapc-cpu.json",
    ("fast_scnn", "512x256", "wall"): "step-fast_scnn-cpu.json",
    ("fast_scnn", "256x128", "wall"): "step-iapc-256-cpu.json",
    ("deeplab_v2_vgg16", "256x128", "wall"): "step-deeplab_v2_vgg16-cpu.json",
    ("deeplab_v2_resnet101", "256x128", "wall"): "step-deeplab_v2_resnet101-cpu.json",
}


def table(start: str) -> list[list[str]]:
    """The cells of the table whose head begins so, the head first, without its rule."""
    lines = (start + PAGE.partition(start)[2].partition("\n\n")[0]).splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[1] != "-"
    ]


def ratio(network: str, size: str, clock: str, losses: str) -> str:
    """The rate of IAPC's step with these losses, of the published step's, as the file has it."""
    file = ROOT / "benchmarks" / "results" / FILES[network, size, clock]
    found = json.loads(file.read_text(encoding="utf-8"))
    assert (found["network"], found["size"], found["clock"]) == (network, size, clock)
    shown = file.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in shown if line.startswith(f"| iapc | iapc | {losses} |")]
    return row.split("|")[5].strip()


def test_the_ratios_by_the_processors_time() -> None:
    head, *rows = table("| losses, `fast_scnn` at 512x256, processor's time")
    assert "one thread" in head[0]
    for losses, rate, _ in rows:
        expected = ratio("fast_scnn", "512x256", "processor", losses.strip("`"))
        assert rate.partition(" ")[0] == expected


@pytest.mark.parametrize("row", table("| network, size, wall time")[1:], ids=lambda row: row[0])
def test_the_ratios_by_the_walls_time(row: list[str]) -> None:
    network, size = (word.strip(" `") for word in row[0].split(","))
    for losses, rate in zip(("reference", "tiled"), row[1:3], strict=True):
        assert rate == ratio(network, size, "wall", losses)
