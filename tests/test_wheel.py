"""The wheel: it holds every module and nothing else, and its base install asks for no torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from roadshift.runtime.older_python import tomllib

ROOT = Path(__file__).parents[1]
NOT_PACKAGED = ("tests", "benchmarks", "docs", "examples", "build", "dist")
ONLY_FOR_LEARNING = {"torch", "onnx", "onnxscript", "tensorrt"}


def is_source(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return parts[0] not in NOT_PACKAGED and not any(part.startswith(".") for part in parts)


MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if is_source(path))
CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*") if path.is_file())
PACKAGED = (*MODULES, *CONFIGS, Path("py.typed"))


def has_build_backend() -> bool:
    """Tell whether this environment has a setuptools that can build the package."""
    try:
        installed = metadata.version("setuptools")
    except metadata.PackageNotFoundError:
        return False
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return installed in Requirement(project["build-system"]["requires"][0]).specifier


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its file. A copy of the sources is built, to leave no build folder in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for file in (*PACKAGED, *map(Path, ("pyproject.toml", "README.md", "LICENSE"))):
        copy = folder / "source" / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder)]
    if has_build_backend():
        command.append("--no-build-isolation")
    done = subprocess.run([*command, str(folder / "source")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("roadshift-*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, bytes]:
    """Content by name."""
    with zipfile.ZipFile(built) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def dist_info(wheel: dict[str, bytes], file: str) -> list[str]:
    """Lines of a file of the wheel's metadata."""
    (content,) = (wheel[name] for name in wheel if name.endswith(f".dist-info/{file}"))
    return content.decode("utf-8").splitlines()


def test_the_wheel_holds_every_module_recipe_and_the_type_marker_and_nothing_else(
    wheel: dict[str, bytes],
) -> None:
    held = {name for name in wheel if ".dist-info/" not in name}
    assert held == {f"roadshift/{file.as_posix()}" for file in PACKAGED}


def test_the_scripts_for_updaters_can_be_run_where_they_are_installed(built: Path) -> None:
    with zipfile.ZipFile(built) as archive:
        for name in ("mender-roadshift", "rauc-hook"):
            found = archive.getinfo(f"roadshift/configs/updaters/{name}")
            assert found.external_attr >> 16 & 0o111 == 0o111
            assert archive.read(found).startswith(b"#!/bin/sh\n")


def test_the_command_of_the_wheel_is_the_command_line(wheel: dict[str, bytes]) -> None:
    assert "roadshift = roadshift.cli_entry:main" in dist_info(wheel, "entry_points.txt")


def test_the_base_install_asks_for_nothing_that_only_learning_needs(
    wheel: dict[str, bytes],
) -> None:
    fields = (line.partition(": ") for line in dist_info(wheel, "METADATA"))
    asked = [Requirement(value) for key, _, value in fields if key == "Requires-Dist"]
    base = {r.name for r in asked if not (r.marker and "extra" in str(r.marker))}
    assert {"numpy", "opencv-python", "onnxruntime"} <= base
    assert base & ONLY_FOR_LEARNING == set()
