"""The rooms: which way imports run, what starting the runtime costs, what the package holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from processes import python_output
from roadshift.runtime.older_python import tomllib

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


@cache
def imports(source: str, module: Path) -> tuple[str, ...]:
    """Absolute dotted names that a module imports anywhere, ``module`` relative to the root."""
    return tuple(_imports(source, module))


def _imports(source: str, module: Path) -> Iterator[str]:
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


def text_of(module: Path) -> str:
    return (ROOT / module).read_text(encoding="utf-8")


def test_imports_run_from_cli_to_export_to_adapt_to_scenes_to_runtime() -> None:
    found = {str(module): forbidden_imports(text_of(module), module) for module in MODULES}
    assert {module: names for module, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("runtime/x.py", "from ..adapt.trainer import Trainer"),
        ("runtime/x.py", "from .. import export"),
        ("runtime/__init__.py", "from ..cli import app"),
        ("runtime/x.py", "import roadshift.adapt"),
        ("adapt/methods/x.py", "def f():\n    from ...export.onnx import write"),
        ("adapt/x.py", "from roadshift import export"),
        ("scenes/x.py", "from ..adapt.run.config import Settings"),
        ("runtime/x.py", "from ..scenes import render_scene"),
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
        ("adapt/x.py", "from ..scenes import render_scene"),
        ("scenes/x.py", "from ..runtime.errors import ConfigError"),
        ("runtime/x.py", "from .. import __version__\nfrom .errors import RoadshiftError"),
    ],
)
def test_an_import_the_right_way_is_allowed(module: str, source: str) -> None:
    assert forbidden_imports(source, Path(module)) == []


def test_runtime_and_scenes_never_import_what_only_learning_needs() -> None:
    below = [module for module in MODULES if module.parts[0] in ("runtime", "scenes")]
    assert below
    found = {
        str(module): {name.split(".")[0] for name in imports(text_of(module), module)}
        & {"torch", "torchvision", "onnxscript"}
        for module in below
    }
    assert {module: names for module, names in found.items() if names} == {}


def test_names_that_python_3_10_lacks_come_from_one_place() -> None:
    elsewhere = {"tomllib", "tomli", "typing.Self", "typing_extensions.Self", "enum.StrEnum"}
    found = {
        str(module): names
        for room in (*ROOMS, "commands", "benchmarks", "tests")
        for module in (file.relative_to(ROOT) for file in (ROOT / room).rglob("*.py"))
        if module != Path("runtime/older_python.py")
        and (names := elsewhere & set(imports((ROOT / module).read_text("utf-8"), module)))
    }
    assert found == {}


def test_every_public_name_of_the_runtime_loads_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import roadshift.runtime as runtime\n"
        "missing = [n for n in runtime.__all__ if getattr(runtime, n).__name__ != n]\n"
        "print(missing, sorted(set(runtime.__all__) - set(dir(runtime))), sys.modules['torch'])"
    )
    assert python_output("-c", code) == "[] [] None"


def test_importing_the_runtime_loads_no_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import roadshift.runtime\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    assert python_output("-c", code) == "['roadshift']"


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


# --- rooms ---------------------------------------------------------------------------------------

# The rooms of a floor: each may import itself and those before it. Below them is what lies loose on
# the floor, above them its face.
INNER = {
    "runtime": (
        "console",
        "probes",
        "pictures",
        "folders",
        "video",
        "bags",
        "frames",
        "labels",
        "bundle",
        "engines",
        "signing",
        "pipeline",
        "collecting",
        "ros",
        "slots",
        "bench",
        "reporting",
    ),
    "adapt": (
        "run",
        "networks",
        "losses",
        "models",
        "black_boxes",
        "data",
        "scoring",
        "selecting",
        "pseudo_labels",
        "methods",
        "explaining",
        "judging",
        "training",
        "workflows",
    ),
}
FACES = ("__init__", "api", "arguments", "black_box_api")
LOOSE_IN_ADAPT: tuple[str, ...] = ()  # what lies loose beside the face
MOST_LINES = 400


def name_of(module: Path) -> str:
    """The dotted name that a module is imported by."""
    return ".".join(("roadshift", *module.with_suffix("").parts)).removesuffix(".__init__")


NAMES = {name_of(module): module for module in MODULES}


def module_of(name: str) -> str | None:
    """The module that an imported name is, or is in."""
    while name not in NAMES and "." in name:
        name = name.rpartition(".")[0]
    return name if name in NAMES else None


def level_of(dotted: str) -> tuple[str, int] | None:
    """The floor of a module and the level of its room there; None where a floor has no rooms."""
    _, floor, *rest = (*dotted.split("."), "", "")[:4]
    if floor not in INNER:
        return None
    if rest[0] in INNER[floor]:
        return floor, INNER[floor].index(rest[0])
    return floor, len(INNER[floor]) if rest[0] in ("", *FACES) else -1


def climbs(source: str, module: Path) -> list[str]:
    """Imports from a room that is above the module's own, on its own floor."""
    own = level_of(name_of(module))
    found = []
    for name in imports(source, module):
        other = level_of(module_of(name) or name)
        if own and other and own[0] == other[0] and other[1] > own[1]:
            found.append(name)
    return found


def test_imports_run_one_way_between_the_rooms_of_a_floor() -> None:
    within = [module for module in MODULES if module.parts[0] in INNER]
    assert within
    found = {str(module): climbs(text_of(module), module) for module in within}
    assert {module: names for module, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("adapt/losses/x.py", "from ..data.mixing import paste"),
        ("adapt/losses/backends/x.py", "def f():\n    from ...methods import Method"),
        ("adapt/run/x.py", "if TYPE_CHECKING:\n    from ..training.trainer import Trainer"),
        ("adapt/training/x.py", "from .. import adapt_bundle"),
        ("runtime/errors.py", "from .console.terminal import note"),
        ("runtime/labels/x.py", "from ..bundle import open_bundle"),
        ("runtime/frames/x.py", "from roadshift.runtime.engines.base import Engine"),
        ("runtime/bench/x.py", "from .. import open_engine"),
    ],
)
def test_an_import_that_climbs_would_be_found(module: str, source: str) -> None:
    assert len(climbs(source, Path(module))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("adapt/__init__.py", "from .workflows.adaptation import adapt_bundle"),
        ("adapt/methods/x.py", "from ..data.mixing import paste\nfrom .base import Stage"),
        (
            "runtime/engines/onnx/x.py",
            "from ..base import Engine\nfrom ...errors import RoadshiftError",
        ),
        ("runtime/bundle/x.py", "from ... import __version__\nfrom ..labels import LabelSpace"),
    ],
)
def test_an_import_from_a_room_below_is_allowed(module: str, source: str) -> None:
    assert climbs(source, Path(module)) == []


def test_every_folder_of_a_floor_with_rooms_has_its_level() -> None:
    for floor, rooms in INNER.items():
        assert {m.parts[1] for m in MODULES if m.parts[0] == floor and len(m.parts) > 2} == {*rooms}


def test_nothing_lies_loose_in_adapt() -> None:
    loose = {m.stem for m in MODULES if m.parts[0] == "adapt" and len(m.parts) == 2}
    assert loose - {*FACES} == {*LOOSE_IN_ADAPT}


def circle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import one another, the first of them last again; [] where there are none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_one_another() -> None:
    """Imports inside functions and for type checkers count; those of the root's face do not."""
    graph = {}
    for name, module in NAMES.items():
        if name == "roadshift":  # imports nothing, see `forbidden_imports`; names are lazy
            continue
        found = imports((ROOT / module).read_text(encoding="utf-8"), module)
        graph[name] = {other for other in map(module_of, found) if other} - {name}
    assert circle_in(graph) == []


def test_a_circle_would_be_found() -> None:
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}


def test_no_file_is_too_long_to_read_at_once() -> None:
    lines = {m.as_posix(): (ROOT / m).read_text(encoding="utf-8").count("\n") for m in MODULES}
    assert {m: n for m, n in lines.items() if n > MOST_LINES} == {}


def renames(source: str) -> list[int]:
    """Lines on which a file or folder is given another name, be it by a path's method or by os."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        call.lineno
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and (
            call.func.attr in ("rename", "renames", "move")
            or (call.func.attr == "replace" and ast.unparse(call.func.value) == "os")
            or (call.func.attr == "replace" and len(call.args) == 1 and not call.keywords)
        )
    ]


def test_one_module_gives_files_and_folders_their_names() -> None:
    found = {str(module): renames((ROOT / module).read_text()) for module in MODULES}
    assert [name for name, lines in found.items() if lines] == ["runtime/atomic.py"]


@pytest.mark.parametrize("call", ["os.replace(a, b)", "p.rename(q)", "p.replace(q)"])
def test_a_file_that_is_renamed_elsewhere_would_be_found(call: str) -> None:
    assert renames(call) == [1]
    assert renames("text.replace('a', 'b')") == []


def test_the_workspace_alone_names_what_lies_in_a_run_folder() -> None:
    for module in MODULES:
        if module.parts[0] == "adapt":
            for node in ast.walk(ast.parse((ROOT / module).read_text())):
                if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
                    assert not ast.unparse(node.left).endswith("workdir"), (module, node.lineno)
