"""The registry of methods: what a program or an installed package adds is known everywhere."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
from roadshift.adapt import METHODS, RunOptions, adapt_bundle, register_method, train_bundle
from roadshift.adapt.methods import (
    Method,
    Stage,
    build_stages,
    choose_method,
    find_method,
    registry,
    resolve_config,
)
from roadshift.adapt.methods.bn_stats import BnStats
from roadshift.adapt.run.config import RunConfig, Settings
from roadshift.adapt.workflows.method_variants import choose_variants
from roadshift.cli import app
from roadshift.runtime.bundle import Bundle
from roadshift.runtime.errors import ConfigError
from typer.testing import CliRunner


class OwnConfig(Settings):
    """One setting."""

    strength: float = 0.5


class Own(Method):
    """Batch-norm statistics under another name: a method without steps."""

    name = "own"
    summary = "a method of a user's own"
    source = "nowhere"
    Config = OwnConfig
    presets: ClassVar[Any] = BnStats.presets

    @staticmethod
    def stages(settings: OwnConfig) -> Sequence[Stage]:
        del settings
        return []


@pytest.fixture
def own() -> Iterator[type[Method]]:
    """`Own`, registered."""
    yield register_method(Own)
    del METHODS["own"]


@pytest.mark.usefixtures("own")
def test_a_registered_method_is_known_to_every_function(
    source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    config = resolve_config("own", assignments=["own.strength=0.25", "tone=none"])
    assert config.method_config == {"strength": 0.25}
    assert build_stages(config) == []
    assert [c.title for c in choose_variants(["own"])] == ["own"]
    assert "own" in [c.title for c in choose_variants(None)]
    bundle = adapt_bundle(source, [frames_dir], config, RunOptions(tmp_path / "out", device="cpu"))
    assert bundle.manifest.provenance.method == "own"
    with pytest.raises(ConfigError, match="settings of own are for runs of it"):
        resolve_config("iapc", assignments=["own.strength=1"])


@pytest.mark.usefixtures("own")
def test_a_registered_method_is_known_to_the_command_line(
    source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    rows = json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)
    assert rows[-1]["name"] == "own"
    command = ["adapt", str(source.path), str(frames_dir), "--method", "own", "--gate", "off"]
    out = ["--out", str(tmp_path / "out"), "--set", "tone=none", "--device", "cpu"]
    out += ["--allow-network", "tiny_network"]
    ran = CliRunner().invoke(app, [*command, *out])
    assert ran.exit_code == 0, ran.output


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "iapc"}, r"'iapc' is registered already, as roadshift\.adapt\.methods\.iapc"),
        ({"name": "training"}, "training is a setting of every run"),
        ({"name": "recipe"}, "recipe is a setting of every run"),
        ({"name": "my method"}, "no word of letters"),
        ({"name": 3}, "no word of letters"),
        ({"Config": dict}, "its Config is no subclass"),
        ({"presets": {"paper": {}}}, 'its presets lack "roadshift"'),
    ],
)
def test_an_incomplete_method_or_a_taken_name_is_refused(
    changes: dict[str, Any], words: str
) -> None:
    known = list(METHODS)
    with pytest.raises(ConfigError, match=words):
        register_method(type("Odd", (Own,), changes))
    assert list(METHODS) == known


def test_what_is_no_method_is_refused() -> None:
    for odd in (Settings, 3, None):
        with pytest.raises(ConfigError, match="no subclass of"):
            register_method(odd)  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="lacks name, summary, source, Config"):
        register_method(Method)


def test_registering_the_same_method_again_changes_nothing() -> None:
    before = list(METHODS)
    assert register_method(BnStats) is BnStats
    assert list(METHODS) == before


# --- installed packages --------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """``installed(name, code)``: an entry point of that name to ``Brought`` in a module of code."""
    points: dict[str, EntryPoint] = {}
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(METHODS, "_installed", points, raising=False)
    monkeypatch.setattr(METHODS, "_registered", dict(METHODS._registered))

    def install(name: str, code: str) -> None:
        module = f"brings_{name}_{zlib.crc32(code.encode())}"
        (tmp_path / f"{module}.py").write_text(code)
        points[name] = EntryPoint(name, f"{module}:Brought", registry.ENTRY_POINTS)

    return install


BROUGHT = """
from roadshift.adapt.methods.bn_stats import BnStats

class Brought(BnStats):
    name = "brought"
    summary = "from a package"
"""


def test_a_method_of_an_installed_package_is_imported_when_it_is_used(
    installed: Callable[[str, str], None],
) -> None:
    installed("brought", BROUGHT)
    installed("broken", "raise OSError('no such library')")
    assert list(METHODS)[-2:] == ["brought", "broken"]
    assert resolve_config("brought").method == "brought"
    assert find_method("brought").summary == "from a package"
    assert resolve_config("iapc").method == "iapc"  # a broken package is no one else's problem
    with pytest.raises(ConfigError, match=r"brings_broken.*OSError: no such library"):
        resolve_config("broken")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("Brought = 3", "no subclass of"),
        (BROUGHT.replace('"brought"', '"other"'), "it calls itself 'other'"),
        ("", "AttributeError"),
    ],
)
def test_a_package_that_brings_no_method_is_named(
    code: str, words: str, installed: Callable[[str, str], None]
) -> None:
    installed("odd", code)
    with pytest.raises(ConfigError, match=rf"brings_odd.*{words}") as caught:
        resolve_config("odd")
    assert "uninstall" in str(caught.value)


# --- unknown methods, and methods that do not fit ------------------------------------------------


@pytest.mark.parametrize("name", ["nope", "", "IAPC", "_ALL", None, 3, ["iapc"]])
def test_an_unknown_method_is_a_sentence_wherever_it_is_given(
    name: Any, source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"is unknown; there are nightshift, iapc"):
        resolve_config(name)
    config = RunConfig.model_construct(**{**dict(resolve_config("iapc")), "method": name})
    with pytest.raises(ConfigError, match="is unknown; there are"):
        adapt_bundle(source, [frames_dir], config, RunOptions(tmp_path / "out"))
    with pytest.raises(ConfigError, match="is unknown; there are"):
        build_stages(config)


def test_supervised_does_not_adapt_and_other_methods_do_not_train(
    source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'supervised' is unknown to adapt.*labels"):
        adapt_bundle(
            source, [frames_dir], resolve_config("supervised"), RunOptions(tmp_path / "out")
        )
    with pytest.raises(ConfigError, match="iapc learns without labels"):
        train_bundle(
            frames_dir,
            frames_dir,
            source.label_space,
            source.manifest.network,
            source.manifest.input,
            resolve_config("iapc"),
            RunOptions(tmp_path / "out"),
        )


# --- --method and --config -----------------------------------------------------------------------


def test_the_file_names_the_method_unless_the_command_does(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('method = "iapc"\n')
    assert choose_method(None, file) == "iapc"
    assert choose_method("iapc", file) == "iapc"
    assert choose_method(None, None) == "nightshift"
    assert choose_method("ld", None) == "ld"
    with pytest.raises(ConfigError, match="written for method 'iapc', not 'ld'"):
        resolve_config(choose_method("ld", file), file=file)
    file.write_text("[training]\nsteps = 3\n")
    assert choose_method(None, file) == "nightshift"
    for text in ("method = 3", "method = ['iapc']", "[method]"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="method is a name in quotes"):
            choose_method(None, file)


@pytest.mark.parametrize("own", [(), ("--method", "bn_stats")])
def test_adapt_takes_a_file_without_naming_its_method_again(
    own: tuple[str, ...], source: Bundle, frames_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    file.write_text('method = "bn_stats"\ntone = "none"\n')
    command = ["adapt", str(source.path), str(frames_dir), "--config", str(file), "--json", *own]
    command += ["--allow-network", "tiny_network"]
    ran = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out"), "--gate", "off"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["method"] == "bn_stats"


@pytest.mark.parametrize("method", ["tent", "nightshift", "entmin", "tone_only", "bn_stats"])
def test_the_one_variant_of_a_method_may_be_named(method: str) -> None:
    named = resolve_config(method, assignments=[f"{method}.variant=roadshift"])
    assert named == resolve_config(method)
    with pytest.raises(ConfigError, match=rf"{method}\.variant 'nonesuch' is unknown"):
        resolve_config(method, assignments=[f"{method}.variant=nonesuch"])
