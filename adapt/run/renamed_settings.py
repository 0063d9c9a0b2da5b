"""Settings under new names: the old names are taken for one release, with a note."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ...runtime.errors import ConfigError
from ...runtime.notes import log_note


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Renamed:
    """The new name of a setting, and how values go from the old meaning to the new and back.

    Args:
        name: the new name.
        to_new, to_old: inverse to one another; a value that is no value of the setting comes
            through `to_new` as what its validation refuses.
        how: the formula of `to_new` in words, for the note; empty where the meaning is the same.
    """

    name: str
    to_new: Callable[[Any], Any] = _same
    to_old: Callable[[Any], Any] = _same
    how: str = ""


Renames = Mapping[str, Renamed]  # by the old name
RenamedValues = Mapping[str, Mapping[str, str]]  # new words by the old ones, by the setting


def complement(value: Any) -> Any:
    """``1 - value``, exact in decimal digits: 1e-4 gives 0.9999, and that 1e-4 again."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return value
    return float(1 - Decimal(repr(number)))


def in_new_names(values: Mapping[str, Any], renames: Renames, section: str = "") -> dict[str, Any]:
    """``values`` with new names in place of old ones, in the same order; each is noted once.

    Args:
        section: what stands before a name in the sentences, such as ``"ld."``.

    Raises:
        ConfigError: a setting is given under both names.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        renamed = renames.get(name)
        if renamed is None:
            found[name] = value
            continue
        old, new = f"{section}{name}", f"{section}{renamed.name}"
        if renamed.name in values:
            raise ConfigError(
                f"{old} and {new} are both given, and the first is the second's old name; leave "
                f"{old} out."
            )
        found[renamed.name] = renamed.to_new(value)
        how = f", which is {renamed.how}" if renamed.how else ""
        _note_once(f"{old} is now called {new}{how}; the old name is taken in this release alone")
    return found


def in_new_words(
    values: Mapping[str, Any], renamed: RenamedValues, section: str = ""
) -> dict[str, Any]:
    """``values`` with new words in place of old ones, each noted once; see `in_new_names`."""
    found = dict(values)
    for name, words in renamed.items():
        value = found.get(name)
        if isinstance(value, str) and value in words:
            found[name] = words[value]
            _note_once(
                f"{section}{name}={value} is now called {section}{name}={words[value]}; the old "
                "name is taken in this release alone"
            )
    return found


def in_old_names(values: Mapping[str, Any], renames: Renames) -> dict[str, Any]:
    """``values`` under the names and meanings before the renaming, in the same order."""
    old_of = {renamed.name: old for old, renamed in renames.items()}
    return {
        old_of.get(name, name): renames[old_of[name]].to_old(value) if name in old_of else value
        for name, value in values.items()
    }


@functools.cache
def _note_once(sentence: str) -> None:
    """Log ``sentence``, once in a process: a comparison resolves its settings many times."""
    log_note(sentence)
