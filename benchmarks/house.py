"""Shape of a checkout: rooms, lines, circles and floors of imports, and how soon it starts.

    python benchmarks/house.py [NAME=CHECKOUT ...] [--starts N]

    git worktree add ../before 711d828
    python benchmarks/house.py before=../before after=. --starts 5

Prints Markdown tables, a column for each checkout. Figures come from the text of the modules, none
of which is imported, so that a checkout needs no environment of its own. ``--starts`` runs the
commands that a user waits for, the checkouts in turns, in the environment of this Python: the
figure is CPU time, which a busy machine stretches less than the clock's.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from machine_line import machine_line
from roadshift.runtime.older_python import tomllib

NOT_THE_PACKAGE = ("tests", "benchmarks", "build")
HELP, IMPORT = "`roadshift --help`", "`import roadshift.adapt`"


@dataclass(frozen=True)
class House:
    """One checkout.

    Attributes:
        lines: of each module of the package, by its path.
        imports: the modules that each module imports, by dotted name.
        test_lines: of everything in ``tests/``.
        code_lines: of the package, without blank lines, comments and docstrings.
    """

    lines: Mapping[Path, int]
    imports: Mapping[str, frozenset[str]]
    test_lines: int
    code_lines: int

    @property
    def rooms(self) -> dict[str, list[Path]]:
        """Modules by the folder that they lie in, ``__init__`` left out."""
        found: dict[str, list[Path]] = {}
        for path in self.lines:
            room = found.setdefault(path.parent.as_posix(), [])
            if path.stem != "__init__":
                room.append(path)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkouts", nargs="*", default=["now=."], metavar="NAME=CHECKOUT")
    parser.add_argument("--starts", type=int, default=0, help="runs of each command")
    arguments = parser.parse_args()
    places = {
        name: Path(place) for name, _, place in (c.partition("=") for c in arguments.checkouts)
    }
    houses = {name: measure(place) for name, place in places.items()}
    print_rows("", houses, figures(houses.values()))
    print()
    print_rows("files in a room (lines of the longest)", houses, rooms(houses.values()))
    if arguments.starts:
        print()
        print_rows(
            f"CPU seconds, median of {arguments.starts}, {machine_line()}",
            places,
            starts(list(places.values()), arguments.starts),
        )


def print_rows(
    title: str, columns: Mapping[str, object], rows: Mapping[str, Sequence[str]]
) -> None:
    """Print a Markdown table: a column for each checkout, a row for each figure."""
    print(f"| {' | '.join([title, *columns])} |")
    print("|---" + "|---:" * len(columns) + "|")
    for name, cells in rows.items():
        print(f"| {' | '.join([name, *cells])} |")


def measure(root: Path) -> House:
    """Read every module of a checkout's package.

    Raises:
        SystemExit: there is no package.
    """
    if not (root / "__init__.py").is_file():
        raise SystemExit(f"{root}: is no checkout of roadshift; give its root.")
    modules = {
        path: (root / path).read_text(encoding="utf-8")
        for path in sorted(path.relative_to(root) for path in root.rglob("*.py"))
        if path.parts[0] not in NOT_THE_PACKAGE and not path.parts[0].startswith(".")
    }
    trees = {name_of(path): (path, ast.parse(text)) for path, text in modules.items()}
    return House(
        {path: text.count("\n") for path, text in modules.items()},
        {
            name: frozenset(imported(tree, path, trees)) - {name}
            for name, (path, tree) in trees.items()
            if name != "roadshift"  # the lazy names of the face are no imports
        },
        sum(path.read_text("utf-8").count("\n") for path in (root / "tests").rglob("*.py")),
        sum(code_lines(text) for text in modules.values()),
    )


def name_of(path: Path) -> str:
    """The dotted name that a module is imported by."""
    return ".".join(("roadshift", *path.with_suffix("").parts)).removesuffix(".__init__")


def imported(tree: ast.Module, path: Path, known: Mapping[str, object]) -> Iterator[str]:
    """Modules of the package that one imports anywhere, also inside functions and for types."""
    package = ("roadshift", *path.parent.parts)
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join((*base, *filter(None, [node.module])))
            names = [f"{start}.{alias.name}" for alias in node.names]
        for name in names:
            module = name if name in known else name.rpartition(".")[0]
            if module in known and module != "roadshift":
                yield module


def code_lines(text: str) -> int:
    """Lines that hold code: neither blank, nor comment, nor docstring."""
    lines = {n for n, line in enumerate(text.splitlines(), 1) if re.match(r"\s*[^\s#]", line)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def circles(graph: Mapping[str, frozenset[str]]) -> list[frozenset[str]]:
    """Groups of modules each of which leads to every other of its group (Tarjan, 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[frozenset[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in graph.get(name, ()):
            if other not in order:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == order[name]:
            group = frozenset(stack[stack.index(name) :])
            del stack[stack.index(name) :]
            found.append(group)

    for name in graph:
        if name not in order:
            visit(name)
    return found


def longest_chain(graph: Mapping[str, frozenset[str]], room: str = "roadshift") -> int:
    """Modules of a room on the longest way down its imports; a circle is one floor."""
    inside = {
        name: frozenset(filter(lambda n: f"{n}.".startswith(f"{room}."), imports))
        for name, imports in graph.items()
        if f"{name}.".startswith(f"{room}.")
    }
    floors: dict[str, int] = {}
    for group in circles(inside):  # what is imported comes before what imports it
        below = [floors[n] for name in group for n in inside.get(name, ()) if n not in group]
        floors.update(dict.fromkeys(group, 1 + max(below, default=0)))
    return max(floors.values(), default=0)


def figures(houses: Collection[House]) -> dict[str, list[str]]:
    """Rows of the first table."""
    return {
        "files of the package": [str(len(house.lines)) for house in houses],
        "rooms (folders)": [str(len(house.rooms)) for house in houses],
        "loose files in `adapt/`": [str(len(house.rooms["adapt"])) for house in houses],
        "loose files in `runtime/`": [str(len(house.rooms["runtime"])) for house in houses],
        "most files in a room": [most_files(house) for house in houses],
        "longest file": [longest(house.lines) for house in houses],
        "files of over 400 lines": [str(sum(n > 400 for n in h.lines.values())) for h in houses],
        "circles of imports": [
            str(sum(len(group) > 1 for group in circles(house.imports))) for house in houses
        ],
        "floors of imports, all": [str(longest_chain(house.imports)) for house in houses],
        "floors of imports in `adapt/`": [
            str(longest_chain(house.imports, "roadshift.adapt")) for house in houses
        ],
        "lines of the package": [f"{sum(house.lines.values()):,}" for house in houses],
        "of them code": [f"{house.code_lines:,}" for house in houses],
        "lines of `scenes/`": [f"{scene_lines(house):,}" for house in houses],
        "lines of tests": [f"{house.test_lines:,}" for house in houses],
    }


def most_files(house: House) -> str:
    room, files = max(house.rooms.items(), key=lambda item: len(item[1]))
    return f"{len(files)} (`{room}/`)"


def longest(lines: Mapping[Path, int]) -> str:
    path, count = max(lines.items(), key=lambda item: item[1])
    return f"{count} (`{path.as_posix()}`)"


def scene_lines(house: House) -> int:
    """Lines of the built-in scenes, which lay in ``adapt/`` once."""
    return sum(count for path, count in house.lines.items() if "scenes" in path.parts)


def rooms(houses: Collection[House]) -> dict[str, list[str]]:
    """Rows of the second table: each room of any of the houses."""
    names = sorted({name for house in houses for name in house.rooms})
    return {
        "`./`" if name == "." else f"`{name}/`": [
            cell(house.rooms.get(name, []), house.lines) for house in houses
        ]
        for name in names
    }


def cell(files: Sequence[Path], lines: Mapping[Path, int]) -> str:
    return f"{len(files)} ({max(lines[file] for file in files)})" if files else ""


def starts(checkouts: Sequence[Path], count: int) -> dict[str, list[str]]:
    """Rows of the third table: median CPU seconds, and the ratio to the first checkout."""
    found = {}
    for title in (HELP, IMPORT):
        seconds: list[list[float]] = [[] for _ in checkouts]
        for turn in range(count + 1):
            for place, kept in zip(checkouts, seconds, strict=True):
                taken = cpu_seconds(place, code_of(title, place))
                if turn:  # the first one compiles the modules
                    kept.append(taken)
        medians = [median(kept) for kept in seconds]
        found[title] = [f"{value:.2f}" for value in medians[:1]] + [
            f"{value:.2f} (x {value / medians[0]:.2f})" for value in medians[1:]
        ]
    return found


def code_of(title: str, checkout: Path) -> str:
    """Python that does what a row is about, as the checkout's own command does it."""
    if title == IMPORT:
        return "import roadshift.adapt"
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["roadshift"].partition(":")
    return (
        "import sys; sys.argv = ['roadshift', '--help']; "
        f"from {module} import {function}; {function}()"
    )


def cpu_seconds(checkout: Path, code: str) -> float:
    """CPU time of a Python process that runs ``code`` with a checkout as `roadshift`."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "roadshift").symlink_to(checkout.resolve())
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": folder},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
