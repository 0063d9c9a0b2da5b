"""The glossary: each term once, and no option or setting that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import typer
from roadshift.adapt.methods import METHODS, resolve_config
from roadshift.cli import app

TEXT = (Path(__file__).parents[1] / "docs" / "glossary.md").read_text(encoding="utf-8")
SECTIONS = ("training", "augment", "watch")  # of every run, beside the method's own


def options() -> set[str]:
    """All options of all commands."""
    commands = getattr(typer.main.get_command(app), "commands").values()  # noqa: B009
    return {option for command in commands for item in command.params for option in item.opts}


def settings(section: str) -> set[str]:
    """Names of the settings in a section of the settings file."""
    if section in SECTIONS:
        return set(getattr(resolve_config("iapc"), section).model_dump())
    return set(METHODS[section].Config.model_fields)


def test_each_term_stands_there_once() -> None:
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", TEXT, re.MULTILINE)
    assert len(terms) > 80
    assert len(terms) == len(set(terms))


def test_every_option_is_one_of_a_command() -> None:
    named = set(re.findall(r"`(--[a-z-]+)", TEXT))
    assert len(named) > 20
    assert named <= options()


def test_every_setting_is_one_of_its_section() -> None:
    named = [
        (section, name)
        for section, name in re.findall(r"`([a-z_]+)\.([a-z_]+)", TEXT)
        if section in SECTIONS or section in METHODS
    ]
    assert len(named) > 15
    assert [pair for pair in named if pair[1] not in settings(pair[0])] == []
