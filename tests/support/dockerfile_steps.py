"""A Dockerfile's steps, run where there is no docker: in a root file system of the distribution.

    debootstrap --variant=minbase trixie ROOT
    python tests/support/dockerfile_steps.py docker/Dockerfile.cuda ROOT [--extras ""]

``ROOT`` stands for the image that ``FROM`` names, so its packages have to have the names that the
steps install. It gets this machine's settings of apt and pip and its certificates, not its sources
of packages, and the checkout where ``COPY`` puts it. Each ``RUN`` is then run with the ``ENV``
above it, in order, and the entry point's ``doctor`` once, as the ``USER``. ``--extras`` installs
other extras of the project than the Dockerfile says, or none: those for a GPU are gigabytes, and
run nowhere else. Each replacement is said.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
OF_THIS_MACHINE = (
    "etc/apt/apt.conf.d",
    "etc/ssl/certs",
    "etc/pip.conf",
    "etc/resolv.conf",
    "etc/hosts",
)
UNCOPIED = shutil.ignore_patterns(".git", ".hypothesis", "*_cache", "__pycache__")


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(keyword, argument) of each instruction, continued lines joined, comments left out."""
    text = dockerfile.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (keyword, argument.strip())
        for keyword, _, argument in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def with_extras(command: str, extras: str | None) -> str:
    """The command with other extras of the project, "" for none, which is installed from /src."""
    if extras is None:
        return command
    return re.sub(r"/src\[[^\]]*\]", f"/src[{extras}]" if extras else "/src", command)


def environment(argument: str, before: dict[str, str]) -> dict[str, str]:
    """``before`` with the variables of an ``ENV``, in whose values ``$NAME`` stands for those."""
    found = dict(before)
    for name, value in re.findall(r"(\w+)=(\S+)", argument):
        found[name] = re.sub(r"\$\{?(\w+)\}?", lambda m: before.get(m[1], ""), value)
    return found


def carry_out(dockerfile: Path, root: Path, extras: str | None) -> None:
    """Run the steps in ``root``; the first that fails ends the process with its exit code."""
    variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    user, folder = "0", "/"
    with mounted(root):
        for keyword, argument in instructions(dockerfile):
            if keyword == "FROM":
                say(f"FROM {argument}: {root} in its place")
            elif keyword == "ENV":
                variables = environment(argument, variables)
            elif keyword == "COPY":
                _, target = argument.split()
                shutil.copytree(CHECKOUT, root / target.lstrip("/"), ignore=UNCOPIED)
            elif keyword == "USER":
                user = argument
            elif keyword == "WORKDIR":
                folder = argument
                (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif keyword == "RUN":
                step = with_extras(argument, extras)
                if step != argument:
                    say(f"in place of {argument}")
                run(root, step, variables, user, folder)
            elif keyword == "ENTRYPOINT":
                words = " ".join(json.loads(argument))
                run(root, f"{words} doctor", variables, user, folder)


def run(root: Path, command: str, variables: dict[str, str], user: str, folder: str) -> None:
    """Run one command in ``root`` by its shell, and say how long it took."""
    say(f"RUN {command}")
    began = time.monotonic()
    own = {n: v for n, v in os.environ.items() if re.search("_proxy$|^PIP_(CERT|INDEX)", n, re.I)}
    inside = f"cd {folder} && {command}"
    done = subprocess.run(
        ["chroot", f"--userspec={user}:{user}", str(root), "/bin/sh", "-c", inside],
        env={**own, **variables, "DEBIAN_FRONTEND": "noninteractive", "HOME": "/tmp"},
    )
    say(f"{time.monotonic() - began:.0f} s, exit code {done.returncode}")
    if done.returncode:
        sys.exit(done.returncode)


@contextmanager
def mounted(root: Path) -> Iterator[None]:
    """Give ``root`` devices, processes and this machine's settings while steps run in it."""
    for name in OF_THIS_MACHINE:
        source, target = Path("/") / name, root / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            shutil.copyfile(source, target)
    kinds = {"proc": ["-t", "proc", "proc"], "dev": ["--bind", "/dev"]}
    for name, words in kinds.items():
        subprocess.run(["mount", *words, str(root / name)], check=True)
    try:
        yield
    finally:
        for name in kinds:
            subprocess.run(["umount", str(root / name)], check=True)


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("root", type=Path, help="a root file system; it is changed")
    parser.add_argument("--extras", help="of the project, instead of those that it says")
    arguments = parser.parse_args()
    carry_out(arguments.dockerfile, arguments.root, arguments.extras)


if __name__ == "__main__":
    main()
