"""The rooms: which way imports run, what starting the runtime costs, what the package holds."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
ROOMS = (
    "runtime",
    "scenes",
    "adapt",
    "export",
    "cli",
)  # each may import itself and those before it
MODULES = sorted(
    path.relative_to(ROOT)
    for path in (
        *ROOT.glob("*.py"),
        *(path for room in (*ROOMS, "commands") for path in (ROOT / room).rglob("*.py")),
    )
)


def imports(source: str, module: Path) -> Iterator[str]:
    """Absolute dotted names that a module imports anywhere, ``module`` relative to the root."""
    package = ("roadshift", *module.parent.parts)
    tree = ast.parse(source)
    if module == Path("__init__.py"):  # names that are promised, for type checkers
        tree.body = [node for node in tree.body if not is_for_type_checkers(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            parts = (*base, *(node.module.split(".") if node.module else ()))
            yield from (".".join((*parts, alias.name)) for alias in node.names)


def is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def room_of(dotted: str) -> str | None:
    """The second name, if it is a room; ``commands`` and ``cli_*`` belong to ``cli``."""
    parts = dotted.split(".")
    if parts[0] != "roadshift" or len(parts) == 1:
        return None
    name = "cli" if parts[1] == "commands" or parts[1].startswith("cli_") else parts[1]
    return name if name in ROOMS else None


def forbidden_imports(source: str, module: Path) -> list[str]:
    """Imports of a room that is above the module's own; anything is above the root."""
    own = room_of(".".join(("roadshift", *module.with_suffix("").parts)))
    allowed = ROOMS[: ROOMS.index(own) + 1] if own else ()
    found = [(name, room_of(name)) for name in imports(source, module)]
    return [name for name, room in found if room is not None and room not in allowed]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_run_from_cli_to_export_to_adapt_to_runtime(module: Path) -> None:
    assert forbidden_imports((ROOT / module).read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("runtime/x.py", "from ..adapt.trainer import Trainer"),
        ("runtime/x.py", "from .. import export"),
        ("runtime/__init__.py", "from ..cli import app"),
        ("runtime/x.py", "import roadshift.adapt"),
        ("adapt/methods/x.py", "def f():\n    from ...export.onnx import write"),
        ("adapt/x.py", "from roadshift import export"),
        ("export/x.py", "if TYPE_CHECKING:\n    from ..cli import app"),
        ("export/x.py", "from ..cli_process import exit_code"),
        ("export/x.py", "from ..commands.options import Json"),
        ("__init__.py", "from .runtime import Frame"),
    ],
)
def test_an_import_the_wrong_way_would_be_found(module: str, source: str) -> None:
    assert len(forbidden_imports(source, Path(module))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cli.py", "from .export import to_onnx\nfrom .runtime.labels import LabelSpace"),
        ("adapt/methods/x.py", "from ...runtime.labels import LabelSpace\nfrom ..losses import ce"),
        ("__init__.py", "if TYPE_CHECKING:\n    from .adapt.api import adapt_bundle"),
        ("runtime/x.py", "from .. import __version__\nfrom .errors import RoadshiftError"),
    ],
)
def test_an_import_the_right_way_is_allowed(module: str, source: str) -> None:
    assert forbidden_imports(source, Path(module)) == []


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] == "runtime"], ids=str)
def test_the_runtime_never_imports_what_only_learning_needs(module: Path) -> None:
    names = imports((ROOT / module).read_text(encoding="utf-8"), module)
    assert {name.split(".")[0] for name in names} & {"torch", "torchvision", "onnxscript"} == set()


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_every_public_name_of_the_runtime_loads_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import roadshift.runtime as runtime\n"
        "missing = [n for n in runtime.__all__ if getattr(runtime, n).__name__ != n]\n"
        "print(missing, sorted(set(runtime.__all__) - set(dir(runtime))), sys.modules['torch'])"
    )
    assert run_python(code) == "[] [] None"


def test_importing_the_runtime_loads_no_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import roadshift.runtime\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    assert run_python(code) == "['roadshift']"


def test_an_unknown_name_of_the_runtime_is_an_attribute_error() -> None:
    import roadshift.runtime

    with pytest.raises(AttributeError, match="no attribute 'open_bundel'"):
        roadshift.runtime.open_bundel  # noqa: B018


def test_every_module_is_in_a_package_that_pyproject_lists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    held = {".".join(("roadshift", *module.parent.parts)) for module in MODULES}
    assert held == listed
    initialised = {
        ".".join(("roadshift", *m.parent.parts)) for m in MODULES if m.stem == "__init__"
    }
    assert initialised == listed
