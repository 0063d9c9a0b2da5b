"""Settings under new names: the old ones work, say so, and change no hash of a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from roadshift.adapt.methods import (
    METHODS,
    find_method,
    hashed_settings,
    resolve_config,
    resolve_settings,
)
from roadshift.adapt.methods.atp_config import AtpConfig
from roadshift.adapt.run import renamed_settings
from roadshift.adapt.run.config import RunConfig, parse_assignments
from roadshift.adapt.run.renamed_settings import complement
from roadshift.runtime.errors import ConfigError

ATP = ("atp", "das3", "atp_black_box", "das3_black_box")
WEIGHTS = ("positive", "negative", "easy", "hard", "reco")
RENAMED = [  # method, old assignment, new assignment
    *((m, f"{m}.{weight}=0.25", f"{m}.weight_{weight}=0.25") for m in ATP for weight in WEIGHTS),
    *((m, f"{m}.share=0.25", f"{m}.class_share=0.25") for m in (*ATP, "ld")),
    ("ld", "ld.passes='any_class'", "ld.threshold_of='any_class'"),
    ("nightshift", "losses='tiled'", "loss_backend='tiled'"),
    ("nightshift", "blend=0.25", "weight_interpolation=0.25"),
    ("iapc", "iapc.memory_smoothing=0.003", "iapc.memory_decay=0.997"),
]
IDS = [old for _, old, _ in RENAMED]


@pytest.fixture(autouse=True)
def notes(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Sentences that are logged, in a process that has noted nothing yet."""
    renamed_settings._note_once.cache_clear()
    caplog.set_level(logging.WARNING, "roadshift")
    return caplog


def names(old: str, new: str) -> tuple[str, str]:
    return old.partition("=")[0], new.partition("=")[0]


def test_every_renamed_setting_is_tried() -> None:
    tried: dict[str, set[tuple[str, str]]] = {}
    for method, old, new in RENAMED:
        tried.setdefault(method, set()).add(names(old, new))
    for method, pairs in tried.items():
        own = find_method(method).Config.renamed
        known = {(f"{method}.{old}", f"{method}.{one.name}") for old, one in own.items()}
        known |= {(old, one.name) for old, one in RunConfig.renamed.items()} & pairs
        assert pairs == known
    runs = {pair for pairs in tried.values() for pair in pairs if "." not in pair[0]}
    assert runs == {(old, one.name) for old, one in RunConfig.renamed.items()}


@pytest.mark.parametrize(("method", "old", "new"), RENAMED, ids=IDS)
def test_the_old_name_is_the_same_setting_with_one_note(
    method: str, old: str, new: str, tmp_path: Path, notes: pytest.LogCaptureFixture
) -> None:
    wanted = resolve_config(method, assignments=[new])
    assert notes.messages == []
    assert wanted != resolve_config(method)
    file = tmp_path / "run.toml"
    file.write_text(old)
    assert resolve_config(method, assignments=[old]) == wanted
    assert resolve_config(method, file=file) == wanted
    assert resolve_settings(method, parse_assignments([old])) == wanted
    (note,) = notes.messages
    before, after = names(old, new)
    assert note.startswith(f"{before} is now called {after}")


@pytest.mark.parametrize(("method", "old", "new"), RENAMED, ids=IDS)
def test_both_names_together_are_refused(method: str, old: str, new: str) -> None:
    before, after = names(old, new)
    with pytest.raises(ConfigError, match=rf"{before} and {after} are both given.*leave {before} "):
        resolve_config(method, assignments=[old, new])


@pytest.mark.parametrize(("method", "old", "new"), RENAMED, ids=IDS)
def test_the_new_name_on_the_command_line_lies_over_the_old_one_in_a_file(
    method: str, old: str, new: str, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(old)
    name = names(old, new)[1]
    preset: Any = resolve_config(method).model_dump(mode="json")
    section, key = preset["method_config"] if "." in name else preset, name.rpartition(".")[2]
    over = resolve_config(method, file=file, assignments=[f"{name}={json.dumps(section[key])}"])
    assert over == resolve_config(method)


@pytest.mark.parametrize(("method", "old", "new"), RENAMED, ids=IDS)
def test_a_run_is_hashed_as_before_the_renaming(method: str, old: str, new: str) -> None:
    given: Any = parse_assignments([old])
    hashed: Any = hashed_settings(resolve_config(method, assignments=[new]))
    if method in given:
        given, hashed = given[method], hashed["method_config"]
    ((name, value),) = given.items()
    assert hashed[name] == value
    assert names(old, new)[1].rpartition(".")[2] not in hashed


def test_a_setting_lies_over_a_preset_that_has_the_old_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preset = {"roadshift": {"blend": 0.5, "atp": {"easy": 0.5}}}  # of a package made before
    monkeypatch.setattr(METHODS["atp"], "presets", preset)
    over = resolve_config("atp", assignments=["weight_interpolation=0.25", "atp.weight_easy=0.25"])
    assert over.weight_interpolation == over.method_config["weight_easy"] == 0.25
    assert resolve_config("atp").weight_interpolation == 0.5


def test_typed_settings_take_the_old_names_too(notes: pytest.LogCaptureFixture) -> None:
    assert AtpConfig.model_validate({"easy": 0.5}) == AtpConfig(weight_easy=0.5)
    assert len(notes.messages) == 1
    with pytest.raises(ConfigError, match="easy and weight_easy are both given"):
        AtpConfig.model_validate({"easy": 0.5, "weight_easy": 0.5})


@pytest.mark.parametrize("value", ["-1", '"much"', "[1]"])
def test_a_wrong_value_under_an_old_name_is_refused_under_the_new_one(value: str) -> None:
    with pytest.raises(ConfigError, match="weight_easy: "):
        resolve_config("atp", assignments=[f"atp.easy={value}"])


def test_the_note_of_a_changed_meaning_says_the_formula(notes: pytest.LogCaptureFixture) -> None:
    config = resolve_config("iapc", assignments=["iapc.memory_smoothing=1e-4"])
    assert config == resolve_config("iapc")
    assert "iapc.memory_decay, which is 1 - memory_smoothing;" in notes.text


@pytest.mark.parametrize("value", ["0", "1.5", "nan", "much", "false", "1e-30"])
def test_a_smoothing_that_was_refused_or_has_no_decay_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="memory_decay: "):
        resolve_config("iapc", assignments=[f"iapc.memory_smoothing={value}"])


@pytest.mark.parametrize("value", [1e-4, 0.1, 0.3, 1.0, 0.25, 1e-7])
def test_a_complement_is_exact_both_ways(value: float) -> None:
    assert complement(complement(value)) == value
    assert complement(1e-4) == 0.9999


@pytest.mark.parametrize("value", ["much", None, [0.1], 10**400])
def test_the_complement_of_no_number_is_itself(value: Any) -> None:
    assert complement(value) is value
