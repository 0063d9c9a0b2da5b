"""docs/iapc.md: its ablations are settings that there are, and it explains the authors' code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from roadshift.adapt.methods import resolve_config
from roadshift.adapt.methods.iapc_config import AUTHORS_CODE, IapcConfig

PAGE = (Path(__file__).parents[3] / "docs/iapc.md").read_text(encoding="utf-8")
ABLATIONS = PAGE.partition("## Ablations of the paper")[2].partition("\n## ")[0]
LINES = [
    re.findall(r"--set (\S+)", line)
    for row in ABLATIONS.splitlines()
    if row.startswith("|")
    for line in re.findall(r"`([^`]*--set[^`]*)`", row)
]


def test_every_table_has_its_rows() -> None:
    assert len(LINES) >= 13
    changed = {assignment.partition("=")[0] for line in LINES for assignment in line}
    assert changed >= {
        f"iapc.{name}"
        for name in (
            *("weight_ia", "weight_pe", "weight_ps", "weight_im"),  # Tables III and V
            *("importance", "prototypes", "memory"),
        )
    }


@pytest.mark.parametrize("variant", ["paper", "reference"])
@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_an_ablation_is_another_run_of_the_variant(line: list[str], variant: str) -> None:
    base = resolve_config("iapc", assignments=[f"iapc.variant={variant}"])
    ablated = resolve_config("iapc", assignments=[f"iapc.variant={variant}", *line])
    changed = {
        f"iapc.{name}"
        for name, value in ablated.method_config.items()
        if value != base.method_config[name]
    }
    named = {assignment.partition("=")[0] for assignment in line}
    assert changed == named - {"iapc.prototype_momentum"}  # named for its number


def test_every_setting_of_the_authors_code_is_explained() -> None:
    section = PAGE.partition("## Where the authors' code differs")[2].partition("\n## ")[0]
    named = re.findall(r"`(\w+) = ", section)
    assert set(named) <= set(IapcConfig.model_fields)
    assert set(AUTHORS_CODE) <= set(named)
