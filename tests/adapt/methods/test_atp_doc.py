"""docs/atp.md: its table of variants says what the presets are, and its ablations are settings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from roadshift.adapt.methods import resolve_config

PAGE = (Path(__file__).parents[3] / "docs/atp.md").read_text(encoding="utf-8")
ABLATIONS = [line.strip() for line in PAGE.splitlines() if re.match(r" {4}--set ", line)]
AS_PUBLISHED = ('--set \'atp.stages=["align","teach","propagate"]\'', "--set atp.mix=classmix")


def settings(line: str) -> list[str]:
    """The assignments of a line of ``--set key=value``."""
    words = shlex.split(line)
    assert words[0::2] == ["--set"] * (len(words) // 2)
    return words[1::2]


@pytest.mark.parametrize("line", ABLATIONS)
def test_every_ablation_on_the_page_is_another_run_of_the_paper(line: str) -> None:
    paper = resolve_config("atp", assignments=["atp.variant=paper"])
    ablated = resolve_config("atp", assignments=["atp.variant=paper", *settings(line)])
    assert (ablated == paper) == (line in AS_PUBLISHED)


def test_there_are_ablations_of_every_table() -> None:
    assert len(ABLATIONS) > 20
    for title in ("Table 5", "Table 6", "Table 8", "Table 9"):
        assert f"\n{title}, " in PAGE
    assert set(AS_PUBLISHED) <= set(ABLATIONS)


WORDS: dict[str, dict[str, Any]] = {  # of a row's setting, and what the columns must name
    "augment_frames": {"all": "all", "hard": "the hard ones"},
    "diversity_of": {"batch": "the batch", "image": "an image"},
    "diversity_over_log_classes": {False: "no", True: "yes"},
    "negative_below": {0.05: "0.05", 0.04: "0.04"},
    "streams": {"one": "one, of all frames", "two": "an easy and a hard one"},
    "propagate_teacher": {"frozen": "`frozen`", "current": "`current`", "ema": "`ema`"},
    "mix": {"classmix": "`classmix`", "easy_onto_hard": "`easy_onto_hard`"},
}


@pytest.mark.parametrize("name", WORDS)
def test_the_table_of_variants_says_what_the_presets_are(name: str) -> None:
    (row,) = (line for line in PAGE.splitlines() if line.startswith("|") and f"(`{name}`)" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
    for variant, cell in zip(("roadshift", "paper", "authors"), cells, strict=True):
        value = resolve_config("atp", assignments=[f"atp.variant={variant}"]).method_config[name]
        assert cell.startswith(WORDS[name][value]), (variant, cell)
