"""`import roadshift`: the promised names, what they load and when, and what type checkers see."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
import roadshift
from processes import python_output

INIT = Path(roadshift.__file__)
LEARNS = ("roadshift.adapt", "roadshift.export")
FUNCTIONS = {
    "adapt_black_box",
    "adapt_bundle",
    "collect_frames",
    "evaluate",
    "explain",
    "export_bundle",
    "import_bundle",
    "judge_bundles",
    "open_bundle",
    "open_engine",
    "open_frames",
    "register_method",
    "register_network",
    "select_frames",
    "train_bundle",
}


def test_importing_loads_no_library_and_no_module_of_ours() -> None:
    code = (
        "import sys; before = set(sys.modules); import roadshift; dir(roadshift)\n"
        "new = set(sys.modules) - before\n"
        "print(sorted(n for n in new if n.split('.')[0] not in sys.stdlib_module_names))"
    )
    assert python_output("-c", code) == "['roadshift']"


def test_the_names_of_the_car_load_without_torch_and_the_others_say_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None\n"
        "import roadshift\n"
        "for name in roadshift.__all__:\n"
        "    try:\n"
        "        getattr(roadshift, name)\n"
        "    except roadshift.MissingDependencyError as error:\n"
        "        assert f'roadshift.{name} needs' in str(error), error\n"
        "        assert 'roadshift[adapt]' in str(error), error\n"
        "        print(name)\n"
        "        for loaded in [m for m in sys.modules if m.startswith('roadshift.adapt')]:\n"
        "            del sys.modules[loaded]"
    )
    places = roadshift._MODULES
    learn = {name for name in roadshift.__all__ if places.get(name, "").startswith(LEARNS)}
    assert set(python_output("-c", code).split()) == learn - {
        "PartialExportError"
    }  # to be caught anywhere


def test_every_promised_name_is_there_under_its_own_name() -> None:
    assert set(roadshift.__all__) == {*roadshift._MODULES, "__version__"}
    assert set(roadshift.__all__) <= set(dir(roadshift))
    assert set(roadshift.__all__) >= FUNCTIONS | {"LabelSpace", "Pipeline"}
    for name, module in roadshift._MODULES.items():
        found = getattr(roadshift, name)
        assert found.__name__ == name
        assert found is getattr(importlib.import_module(module), name)


def test_what_is_not_promised_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="'roadshift' has no attribute 'adapt_bundles'"):
        _ = roadshift.adapt_bundles


def test_type_checkers_see_every_name_where_it_is_at_run_time() -> None:
    tree = ast.parse(INIT.read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {
        alias.name: f"roadshift.{node.module}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == roadshift._MODULES
    assert (INIT.parent / "py.typed").exists()


def test_every_method_of_ours_has_its_settings_among_the_names() -> None:
    from roadshift.adapt.methods import METHODS

    ours = [m for m in METHODS.values() if m.__module__.startswith("roadshift.")]
    for method in ours:
        assert getattr(roadshift, method.Config.__name__) is method.Config


def test_type_checkers_know_that_every_setting_has_a_default() -> None:
    """PEP 681 takes a default that has a name: ``Field(default=0.5)``, not ``Field(0.5)``."""
    for file in (INIT.parent / "adapt" / "methods").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Field":
                assert not node.args, f"{file}:{node.lineno}"
                assert any(k.arg in ("default", "default_factory") for k in node.keywords)
