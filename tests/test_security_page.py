"""SECURITY.md: its table of commands has every command that takes a bundle."""

from __future__ import annotations

import re
from pathlib import Path

import click
import typer
from roadshift import cli

PAGE = (Path(__file__).parents[1] / "SECURITY.md").read_text(encoding="utf-8")


def taking_bundles(group: click.Group, before: str = "") -> list[str]:
    """The names of commands with an argument BUNDLE, such as "slot install"."""
    found = list[str]()
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found += taking_bundles(command, f"{before}{name} ")
        elif any(str(p.metavar or "").startswith("BUNDLE") for p in command.params):
            found.append(before + name)
    return found


def test_the_table_of_commands_has_all_that_take_a_bundle() -> None:
    found = taking_bundles(typer.main.get_command(cli.app))  # type: ignore[arg-type]
    assert {"verify", "slot install", "report", "run"} <= set(found)
    table = PAGE.partition("## What each command does")[2].partition("\n## ")[0]
    first = "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    told = set(re.findall(r"`([^`]+)`", first))
    assert set(found) - told == set()
