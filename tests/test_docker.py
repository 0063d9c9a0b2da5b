"""The Dockerfiles and the page on Jetsons: their steps, as far as no container has to be built."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from dockerfile_steps import environment, instructions, with_extras
from packaging.requirements import Requirement
from roadshift.runtime.older_python import tomllib

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "docker").iterdir())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pip_requirements(command: str) -> list[str]:
    """The requirements of every ``pip install`` of a shell command."""
    found: list[str] = []
    for part in re.split(r"&&|;|\n", command):
        words = shlex.split(part)
        if "install" not in words or "pip" not in words[: words.index("install")]:
            continue
        words = words[words.index("install") + 1 :]
        valued = {"--index-url", "--no-binary"}
        found += [
            word
            for before, word in zip(["", *words], words, strict=False)
            if not word.startswith("-") and before not in valued
        ]
    return found


def check(requirement: str) -> None:
    """A requirement of a page or an image: our own extras exist, others do not contradict ours."""
    if own := re.fullmatch(r"(?:/src|\.|roadshift)(?:\[(.+)\])?", requirement):
        assert set((own[1] or "").split(",")) - {""} <= set(EXTRAS), requirement
        return
    asked = Requirement(requirement)
    ours = [
        wanted
        for line in (
            *PROJECT["dependencies"],
            *(line for extra in EXTRAS.values() for line in extra),
        )
        if (wanted := Requirement(line)).name == asked.name
    ]
    assert ours, f"{requirement}: is nothing that the project asks for"
    lowest = {str(s.version) for s in asked.specifier if s.operator == ">="}
    assert any(all(version in wanted.specifier for version in lowest) for wanted in ours)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_installs_what_the_project_has_and_runs_the_command_as_no_root(
    dockerfile: Path,
) -> None:
    steps = instructions(dockerfile)
    keywords = [keyword for keyword, _ in steps]
    assert set(keywords) <= {"ARG", "FROM", "RUN", "ENV", "COPY", "USER", "WORKDIR", "ENTRYPOINT"}
    assert keywords.count("FROM") == 1
    assert dict(steps)["USER"] not in ("root", "0")
    assert dict(steps)["ENTRYPOINT"] == '["roadshift"]'
    assert "roadshift" in PROJECT["scripts"]
    commands = [argument for keyword, argument in steps if keyword == "RUN"]
    requirements = [one for command in commands for one in pip_requirements(command)]
    assert any(one.startswith("/src[adapt") for one in requirements)
    for requirement in requirements:
        check(requirement)
    for command in commands:
        assert ("apt-get install" in command) == ("rm -rf /var/lib/apt/lists/*" in command)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_shell_understands_every_step(dockerfile: Path) -> None:
    for keyword, argument in instructions(dockerfile):
        if keyword == "RUN":
            done = subprocess.run(["bash", "-n", "-c", argument], capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_linter_of_dockerfiles_has_nothing_to_say(dockerfile: Path) -> None:
    done = subprocess.run(["hadolint", dockerfile], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_on_a_jetson_torch_is_there_before_the_project_asks_for_it() -> None:
    steps = [argument for keyword, argument in instructions(ROOT / "docker/Dockerfile.l4t")]
    text = "\n".join(steps)
    assert text.index("--index-url") < text.index("/src[adapt]")
    on_a_jetson = {"python_version": "3.10", "platform_machine": "aarch64", "extra": "adapt"}
    (torch,) = (
        wanted
        for wanted in map(Requirement, EXTRAS["adapt"])
        if wanted.name == "torch" and wanted.marker and wanted.marker.evaluate(on_a_jetson)
    )
    assert {s.operator for s in torch.specifier} == {">="}, "an upper bound would exchange it"
    assert f"'torch{torch.specifier}'" in text


def test_the_page_on_jetsons_names_extras_and_builds_that_exist() -> None:
    page = (ROOT / "docs" / "jetson.md").read_text(encoding="utf-8")
    commands = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    requirements = [one for line in commands for one in pip_requirements(line)]
    assert any(one == ".[adapt]" for one in requirements)
    for requirement in requirements:
        check(requirement)
    for name in re.findall(r"docker/Dockerfile\.\w+", page):
        assert (ROOT / name).is_file()


def test_steps_are_run_with_the_variables_above_them_and_the_extras_asked_for() -> None:
    steps = instructions(ROOT / "docker/Dockerfile.cuda")
    before = {"PATH": "/usr/bin"}
    variables = environment(next(a for k, a in steps if k == "ENV"), before)
    assert variables == {"PATH": "/opt/roadshift/bin:/usr/bin"}
    assert before == {"PATH": "/usr/bin"}
    (install,) = [a for k, a in steps if k == "RUN" and "/src" in a]
    assert with_extras(install, None) == install
    assert pip_requirements(with_extras(install, "adapt")) == ["/src[adapt]"]
    assert pip_requirements(with_extras(install, "")) == ["/src"]
