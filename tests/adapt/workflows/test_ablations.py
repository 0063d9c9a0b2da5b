"""Ablation tables: every file varies what it says it varies, and its rows are compared as runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from roadshift.adapt.methods import resolve_config
from roadshift.adapt.run.config import RunConfig, leaves
from roadshift.adapt.workflows.ablations import (
    FOLDER,
    Ablation,
    ablation_listing,
    ablation_names,
    ablation_variants,
    find_ablation,
    read_ablation,
)
from roadshift.adapt.workflows.compare_report import write_report
from roadshift.adapt.workflows.compare_request import compare_methods
from roadshift.adapt.workflows.compare_rows import comparison_cells, comparison_rows
from roadshift.cli import app
from roadshift.runtime.bundle import Bundle, open_bundle
from roadshift.runtime.errors import ConfigError
from run_cases import run_options
from typer.testing import CliRunner

TABLES = {
    "iapc-table-3",
    "iapc-table-4",
    "iapc-table-5",
    "atp-table-5",
    "atp-table-6",
    "atp-table-8",
    "atp-table-9",
    "ld-figure-3",
}
every_table = pytest.mark.parametrize("name", sorted(TABLES))

TWO_ROWS = """
title = "Two rows"
varies = "weight_pe"
method = "iapc"
reference = "this test"
values = "ours"
note = "All of them"

[settings]
tone = "none"
bn_batch_size = 3
training.batch_size = 2
iapc.pseudo_labels = "online"

[[rows]]
name = "with"
title = "with | L_PE"

[[rows]]
name = "without"
title = "without L_PE"
settings = { iapc.weight_pe = 0.0 }
"""


def settings_of(config: RunConfig) -> dict[str, Any]:
    """All settings by dotted key, the method's own under its name."""
    document = config.model_dump(mode="json")
    own = document.pop("method_config")
    return leaves({**document, config.method: own})


def configs(name: str) -> dict[str, RunConfig]:
    """Settings of each row of a table, by the row's name."""
    names = [row.name for row in read_ablation(find_ablation(name)).rows]
    variants = ablation_variants(find_ablation(name))
    return {row: variant.configs[0] for row, variant in zip(names, variants, strict=True)}


# --- the files that come with roadshift ----------------------------------------------------------


def test_there_are_the_tables_that_the_papers_have() -> None:
    assert set(ablation_names()) == TABLES
    assert {row["name"] for row in ablation_listing()} == TABLES


@every_table
def test_no_two_rows_are_the_same_run(name: str) -> None:
    found = [settings_of(config) for config in configs(name).values()]
    assert all(found.count(one) == 1 for one in found)


@every_table
def test_a_row_differs_from_the_papers_recipe_in_what_it_sets_alone(name: str) -> None:
    table = read_ablation(find_ablation(name))
    paper = settings_of(resolve_config(table.method, assignments=[f"{table.method}.variant=paper"]))
    for row in table.rows:
        mine = settings_of(configs(name)[row.name])
        changed = {key for key in mine if mine[key] != paper.get(key)}
        assert changed <= leaves(row.settings).keys(), row.name


@every_table
def test_some_row_is_the_papers_recipe_itself(name: str) -> None:
    table = read_ablation(find_ablation(name))
    paper = resolve_config(table.method, assignments=[f"{table.method}.variant=paper"])
    assert paper in configs(name).values()


def test_the_rows_of_iapc_table_4_are_the_names_of_the_paper() -> None:
    rows = configs("iapc-table-4")
    own = {name: config.method_config for name, config in rows.items()}
    importance = {name: own[name]["importance"] for name in ("iapc", "rpl", "fpl", "spl")}
    assert importance == {
        "iapc": "margin_ratio",
        "rpl": "none",
        "fpl": "first",
        "spl": "one_minus_second",
    }
    assert [own[name]["prototypes"] for name in ("sp", "mup")] == ["static", "momentum"]
    assert own["no-ema"]["memory"] == "student"


def test_the_terms_of_iapc_table_3_come_one_after_another() -> None:
    on = [
        {key for key in ("ia", "im", "pe", "ps") if config.method_config[f"weight_{key}"]}
        for config in configs("iapc-table-3").values()
    ]
    every = {"ia", "im", "pe", "ps"}
    assert on[:3] == [{"ia"}, {"ia", "im"}, {"ia", "im", "pe"}]
    assert [every - terms for terms in on[3:]] == [{"pe"}, {"im"}, {"ia"}, set()]


@pytest.mark.parametrize("name", ["iapc-table-5", "atp-table-8", "atp-table-9", "ld-figure-3"])
def test_a_table_of_sensitivity_has_values_on_both_sides_of_the_papers(name: str) -> None:
    table = read_ablation(find_ablation(name))
    paper = settings_of(resolve_config(table.method, assignments=[f"{table.method}.variant=paper"]))
    tried: dict[str, set[float]] = {}
    for row in table.rows:
        for key, value in leaves(row.settings).items():
            if isinstance(value, (int, float)) and value:
                tried.setdefault(key, set()).add(value)
    assert tried
    for key, values in tried.items():
        assert min(values) < paper[key] < max(values), key


@every_table
def test_values_of_ours_are_said_to_be_ours(name: str) -> None:
    table = read_ablation(find_ablation(name))
    assert table.values == "paper" or "ours" in table.note
    assert table.reference.rpartition("arXiv:")[2]


# --- settings of rows ----------------------------------------------------------------------------


@pytest.fixture
def two_rows(tmp_path: Path) -> Path:
    file = tmp_path / "two-rows.toml"
    file.write_text(TWO_ROWS)
    return file


def test_a_row_lies_over_what_a_user_sets_and_that_over_the_table(two_rows: Path) -> None:
    variants = ablation_variants(
        two_rows, ["training.batch_size=3", "iapc.weight_ps=0.5"], seeds=2, steps=7
    )
    assert [variant.title for variant in variants] == ["with | L_PE", "without L_PE"]
    assert variants[1].run_name(1) == "two-rows-without-seed1"
    for variant in variants:
        assert [config.seed for config in variant.configs] == [0, 1]
        for config in variant.configs:
            assert (config.training.batch_size, config.training.steps) == (3, 7)
            assert (config.tone, config.method_config["weight_ps"]) == ("none", 0.5)
    assert [variant.configs[0].method_config["weight_pe"] for variant in variants] == [0.1, 0.0]


def test_an_old_name_of_a_setting_is_known_in_rows_too(two_rows: Path) -> None:
    two_rows.write_text(TWO_ROWS.replace("iapc.weight_pe = 0.0", "iapc.memory_smoothing = 0.1"))
    with pytest.raises(
        ConfigError, match=r"assignments iapc\.memory_decay: the row 'without L_PE'"
    ):
        ablation_variants(two_rows, ["iapc.memory_decay=0.5"])


@pytest.mark.parametrize(
    ("assignments", "steps", "says"),
    [
        (["iapc.weight_pe=1"], None, r"iapc\.weight_pe: the row 'without L_PE' sets it"),
        (["training.steps=3"], 4, "steps and assignments training.steps are both given"),
        (["ld.class_share=0.5"], None, "ld is not one of"),
        (["seed=3"], None, "counts its seeds itself"),
        (["iapc.wight=1"], None, "unknown key 'wight'"),
    ],
)
def test_settings_that_a_table_cannot_have_are_refused(
    two_rows: Path, assignments: list[str], steps: int | None, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        ablation_variants(two_rows, assignments, steps=steps)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "without"', 'name = "with"', "two have the name 'with'"),
        ('name = "without"', 'name = "../up"', "rows.1.name"),
        ('title = "without L_PE"', 'title = "with | L_PE"', "two have the title"),
        ('note = "All of them"', "", "note must say which"),
        ('method = "iapc"', 'method = "atp_black_box"', "a black box's answers"),
        ('method = "iapc"', 'method = "magic"', "'magic' is unknown"),
        ("varies", "vary", "unknown key 'vary'"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_the_reason(
    two_rows: Path, old: str, new: str, says: str
) -> None:
    two_rows.write_text(TWO_ROWS.replace(old, new, 1))
    with pytest.raises(ConfigError, match=says):
        read_ablation(two_rows)


def test_an_unknown_table_is_told_which_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"ablation 'table-3': .*one of atp-table-5, .*iapc-table-3"
    ):
        find_ablation("table-3")


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
def test_the_rows_run_from_one_start_and_are_reported_class_by_class(
    source: Bundle, frames_dir: Path, two_rows: Path, tmp_path: Path
) -> None:
    labels, out = tmp_path / "labels", tmp_path / "out"
    labels.mkdir()
    for path in frames_dir.iterdir():
        blocks = np.arange(24, dtype=np.uint8).reshape(4, 6) % 4
        assert cv2.imwrite(str(labels / path.name), blocks.repeat(8, axis=0).repeat(8, axis=1))

    def compared(**changes: Any) -> Any:
        return compare_methods(
            source.path,
            [str(frames_dir)],
            labels,
            run_options(out),
            **{"ablation": str(two_rows), "seeds": 2, "steps": 1, **changes},
            allow_networks=["tiny_network"],
        )

    with pytest.raises(ConfigError, match="ablation: its table is of one method, so methods says"):
        compared(methods=["iapc"])
    comparison = compared()
    rows = comparison_rows(comparison)
    assert [row["row"] for row in rows] == ["source only", "with | L_PE", "without L_PE"]
    assert [row["method"] for row in rows] == ["source only", "iapc", "iapc"]
    assert [comparison_cells(row)["row"] for row in rows][1:] == ["with | L_PE", "without L_PE"]
    assert all(set(row["iou"]) == set(source.label_space.classes) for row in rows)
    for row, weight in zip(("with", "without"), (0.1, 0.0), strict=True):
        for seed in (0, 1):
            made = open_bundle(
                out / f"runs/two-rows-{row}-seed{seed}", allow_networks=["tiny_network"]
            )
            assert made.manifest.provenance.parent == source.hash
            settings: Any = made.manifest.provenance.configuration
            assert settings["method_config"]["weight_pe"] == weight
            assert (settings["seed"], settings["outcome"]["steps"]) == (seed, 1)
    write_report(comparison, rows, out, "roadshift compare", device="cpu")
    page = (out / "compare.md").read_text()
    assert page.startswith("# Two rows\n\niapc: weight_pe. After this test. The rows are ours.")
    assert r"| with \| L_PE |" in page
    assert "runs/<table>-<row>-seed<n>/manifest.json" in page
    assert json.loads((out / "compare.json").read_text()) == rows


def test_the_command_lists_tables_and_misses_what_it_needs_by_name() -> None:
    ran = CliRunner().invoke(app, ["compare", "--list-ablations", "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout) == ablation_listing()
    shown = CliRunner().invoke(app, ["compare", "--list-ablations"]).stdout
    assert all(name in shown for name in TABLES)
    for name, arguments in (("BUNDLE", ()), ("FRAMES", ("b",)), ("--labels", ("b", "f"))):
        ran = CliRunner().invoke(app, ["compare", *arguments])
        assert ran.exit_code == 2
        assert f"{name}: it is missing; give it, or --list-ablations alone" in ran.output


def test_a_table_keeps_what_it_was_given(two_rows: Path) -> None:
    table = read_ablation(two_rows)
    assert isinstance(table, Ablation)
    assert leaves(table.settings)["training.batch_size"] == 2


def test_the_errors_of_a_table_of_ones_own_name_its_file(tmp_path: Path) -> None:
    table = (FOLDER / "iapc-table-4.toml").read_text()
    file = tmp_path / "own.toml"
    file.write_text(table.replace('method = "iapc"', 'method = "foo"', 1))
    with pytest.raises(ConfigError, match=r"own\.toml: method 'foo' is unknown"):
        read_ablation(file)
    lines = [line for line in table.splitlines() if not line.startswith("reference")]
    file.write_text("\n".join(lines))
    assert not read_ablation(file).reference
    with pytest.raises(ConfigError, match="is a folder"):
        find_ablation(str(tmp_path))
