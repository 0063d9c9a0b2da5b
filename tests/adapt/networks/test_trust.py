"""Code that files name: never run unasked, never from a bundle, never for what is installed.

Every way to name a module and every command that builds a network from a manifest. CPU only, some
seconds.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from roadshift.adapt import load_network
from roadshift.adapt.black_boxes import open_black_box
from roadshift.adapt.models.loading import pick_device
from roadshift.adapt.networks import NETWORKS, build_network
from roadshift.adapt.networks.foreign.trust import check_allowed, registered_factory
from roadshift.adapt.networks.foreign.user_modules import bundle_around, import_callable
from roadshift.cli import app
from roadshift.runtime.bundle import Bundle, extend_bundle, open_bundle
from roadshift.runtime.console.flags import flag_of
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import ConfigError, NetworkError, RoadshiftError
from typer.testing import CliRunner

CPU = pick_device("cpu")
Ran = Callable[[], list[str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, an empty one; modules that are imported meanwhile are forgotten."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    known, path, finders = set(sys.modules), list(sys.path), list(sys.meta_path)
    yield folder
    assert sys.path == path
    assert sys.meta_path == finders
    for name in set(sys.modules) - known:
        if name.partition(".")[0] != "roadshift":  # whose rooms keep what they have of each other
            del sys.modules[name]


@pytest.fixture
def code(tmp_path: Path) -> Callable[[Path], Path]:
    """``code(file)`` writes a module that builds the tiny network; that it ran shows in a file."""

    def write(file: Path, extra: str = "") -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            f"{extra}\nopen({str(tmp_path / 'ran')!r}, 'a').write(__name__ + '\\n')\n"
            "from tiny_network import build as f\n"
            "def ask(image): return image[..., 0] // 64\n"
        )
        return file

    return write


@pytest.fixture
def ran(tmp_path: Path) -> Callable[[], list[str]]:
    """Names of the modules of `code` that were run."""
    file = tmp_path / "ran"
    return lambda: file.read_text().split() if file.exists() else []


@pytest.fixture
def naming(source: Bundle, here: Path) -> Callable[[str, str], Path]:
    """``naming(network, folder)`` is a copy of the source bundle that names this network."""

    def make(network: str, folder: str = "stranger") -> Path:
        path = here / folder
        shutil.copytree(source.path, path, dirs_exist_ok=True)
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["network"] = {"name": network, "arguments": {}}
        (path / "manifest.json").write_text(json.dumps(manifest))
        return path

    return make


# ---- a manifest names code --------------------------------------------------------------------

CODE = [
    "stranger.evil:f",
    "evil:f",
    "package.evil:f",
    "torch.hub:load",
    "os:system",
    "builtins:exec",
    "tiny_network:build",
]


@pytest.mark.parametrize("network", CODE)
def test_a_manifest_runs_no_code_unless_the_user_names_its_module(
    network: str, naming: Callable[..., Path], here: Path, code: Callable[..., Path], ran: Ran
) -> None:
    path = naming(network)
    for file in ("stranger/evil.py", "evil.py", "package/evil.py", "package/__init__.py"):
        code(here / file)
    module = network.partition(":")[0]
    refusal = rf"stranger: its network is {network}, .* allow_networks=\['{module}'\]"
    before = set(sys.modules)
    with pytest.raises(NetworkError, match=refusal):
        load_network(open_bundle(path), CPU)
    with pytest.raises(NetworkError, match=refusal):
        load_network(open_bundle(path, allow_networks=["other", f"{module}.x", "stranger"]), CPU)
    with pytest.raises(NetworkError, match=refusal):
        open_engine(path, backend="torch", device="cpu")
    assert ran() == []
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "network", [":f", "evil:", ".evil:f", "a b:f", "evil:f:g", "evil:f.g", "\x1b[1m:f"]
)
def test_what_is_no_name_of_a_factory_is_refused_whatever_is_allowed(
    network: str, naming: Callable[..., Path], here: Path, code: Callable[..., Path], ran: Ran
) -> None:
    code(here / "evil.py")
    path = naming(network)
    with pytest.raises(NetworkError) as caught:
        load_network(open_bundle(path, allow_networks=["evil"]), CPU)
    assert "\x1b" not in str(caught.value)
    with pytest.raises(NetworkError):
        load_network(open_bundle(path), CPU)
    assert ran() in ([], ["evil"])  # the module is allowed, the factory is none


def commands(path: Path, other: Path, frames: Path) -> dict[str, list[str]]:
    labels = ["--labels", f"{frames}-labels"]
    small = ["--method", "bn_stats"]
    return {
        "adapt": ["adapt", str(path), str(frames), "--out", "out", *small, "--gate", "off"],
        "judge incumbent": ["judge", str(path), str(other), str(frames)],
        "judge candidate": ["judge", str(other), str(path), str(frames)],
        "compare": ["compare", str(path), str(frames), *labels, "--methods", "bn_stats"],
        "eval": ["eval", str(path), "--images", str(frames), *labels],
        "export": ["export", str(path)],
        "run": ["run", str(path), str(frames)],
        "bench": ["bench", str(path), "--queries", "1", "--warmup", "0", "--rounds", "1"],
    }


@pytest.mark.parametrize("command", commands(Path(), Path(), Path()))
def test_every_command_refuses_it_and_runs_it_where_it_is_allowed(
    command: str,
    source: Bundle,
    naming: Callable[..., Path],
    frames_dir: Path,
    here: Path,
    code: Callable[..., Path],
    ran: Ran,
) -> None:
    code(here / "theirs.py")
    path = naming("theirs:f")
    frames = shutil.copytree(frames_dir, here / "frames")
    (here / "frames-labels").mkdir()
    for file in frames.iterdir():
        assert cv2.imwrite(str(here / "frames-labels" / file.name), np.zeros((32, 48), np.uint8))
    arguments = [*commands(path, source.path, frames)[command], "--device", "cpu"]
    if command == "export":  # takes a while, so it ends at the factory
        arguments = arguments[:-2]
        with (here / "theirs.py").open("a") as theirs:
            theirs.write("def f(num_classes): raise ValueError\n")
    own = ["--allow-network", "tiny_network"]
    refused = CliRunner().invoke(app, [*arguments, *own])
    assert isinstance(refused.exception, RoadshiftError)
    told = refused.exception.told(flag_of)
    assert refused.exit_code != 0
    assert "stranger: its network is theirs:f" in told
    assert "with --allow-network theirs." in told
    assert ran() == []
    allowed = CliRunner().invoke(app, [*arguments, *own, "--allow-network", "theirs"])
    if command == "export":
        assert "the factory raised ValueError" in str(allowed.exception)
    else:
        assert allowed.exit_code in (0, 5, 6), allowed.output
    assert ran() == ["theirs"]
    assert not list(here.rglob("*allow*"))  # remembered nowhere
    with pytest.raises(NetworkError, match="theirs:f"):
        load_network(open_bundle(path), CPU)


@pytest.mark.parametrize("name", ["a/b", "theirs:f", "", "theirs.", "*", "--"])
def test_what_is_allowed_must_be_a_module(name: str, source: Bundle) -> None:
    with pytest.raises(ConfigError, match="name a module of Python"):
        open_bundle(source.path, allow_networks=[name])


@pytest.mark.parametrize("given", ["theirs", None, 3, [None]])
def test_what_is_allowed_is_a_list(given: Any, source: Bundle) -> None:
    with pytest.raises(ConfigError, match="is no list of names") as caught:
        open_bundle(source.path, allow_networks=given)
    assert caught.value.argument == "allow_networks"


def test_a_successor_of_an_allowed_bundle_is_allowed_and_only_in_this_process(
    naming: Callable[..., Path], here: Path, code: Callable[..., Path], frames_dir: Path
) -> None:
    from roadshift.adapt import RunOptions, adapt_bundle, resolve_config

    code(here / "theirs.py")
    config = resolve_config("bn_stats", assignments=["bn_batch_size=3", "tone=none"])
    opened = open_bundle(naming("theirs:f"), allow_networks=["theirs"])
    adapted = adapt_bundle(opened, [frames_dir], config, RunOptions(here / "out", device="cpu"))
    load_network(adapted, CPU)
    with pytest.raises(NetworkError, match=r"allow_networks=\['theirs'\]"):
        load_network(open_bundle(adapted.path), CPU)


@pytest.mark.parametrize("argument", ["num_classes", "name"])
def test_a_manifest_does_not_contradict_the_label_space_or_the_name(
    argument: str, naming: Callable[..., Path]
) -> None:
    path = naming("fast_scnn")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["network"]["arguments"] = {argument: 7}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RoadshiftError, match=f"{argument}"):
        load_network(open_bundle(path), CPU)


ARGUMENTS = ("layers", "head", "aspp_branches", "multi_level", "other", "num_classes ", "self")


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(NETWORKS)),
    arguments=st.dictionaries(
        st.sampled_from(ARGUMENTS),
        st.sampled_from([None, True, -1, 0, 1 << 40, 1.5, "", "layer6", [], [0], {}])
        | st.lists(st.sampled_from([1, -1, 1 << 40, None, "x"]), min_size=4, max_size=4),
        min_size=1,
        max_size=3,
    ),
)
def test_any_arguments_of_a_registered_network_build_it_or_are_refused(
    name: str, arguments: dict[str, Any]
) -> None:
    try:
        with torch.device("meta"):
            build_network(name, 4, **arguments)
    except NetworkError as error:
        assert str(error).startswith(f"network '{name}'")  # noqa: PT017 - any other one fails


@pytest.mark.parametrize(
    "arguments",
    [
        {"layers": [10**9] * 4},
        {"layers": "abcd"},
        {"layers": [None] * 4},
        {"head": [1]},
        {"aspp_branches": -3},
        {"no_such": 1},
    ],
)
def test_a_registered_network_with_odd_arguments_is_an_error_of_one_sentence(
    arguments: dict[str, object],
) -> None:
    with pytest.raises(NetworkError, match="network 'deeplab_v2_resnet101'"):
        build_network("deeplab_v2_resnet101", 4, **arguments)


# ---- where a module lies ----------------------------------------------------------------------


def in_a_namespace(here: Path, code: Callable[..., Path]) -> str:
    code(here / "stranger/evil.py")
    return "stranger.evil"


def in_a_package(here: Path, code: Callable[..., Path]) -> str:
    code(here / "stranger/__init__.py")
    return "stranger"


def below_a_package(here: Path, code: Callable[..., Path]) -> str:
    code(here / "stranger/__init__.py")
    code(here / "stranger/evil.py")
    return "stranger.evil"


def deep_inside(here: Path, code: Callable[..., Path]) -> str:
    code(here / "stranger/deep/down/evil.py")
    return "stranger.deep.down.evil"


def by_a_link_to_the_file(here: Path, code: Callable[..., Path]) -> str:
    (here / "linked.py").symlink_to(code(here / "stranger/evil.py"))
    return "linked"


def by_a_link_to_the_bundle(here: Path, code: Callable[..., Path]) -> str:
    code(here / "stranger/evil.py")
    (here / "linked").symlink_to(here / "stranger")
    return "linked.evil"


def by_a_link_out_of_the_bundle(here: Path, code: Callable[..., Path]) -> str:
    code(here.parent / "elsewhere.py")
    (here / "stranger/evil.py").symlink_to(here.parent / "elsewhere.py")
    return "stranger.evil"


def by_a_package_outside(here: Path, code: Callable[..., Path]) -> str:
    code(here / "stranger/evil.py")
    (here / "outside.py").write_text("import stranger.evil\n")
    return "outside"


def by_a_path_into_it(here: Path, code: Callable[..., Path]) -> str:
    code(here / "stranger/evil.py")
    (here / "outside").mkdir()
    (here / "outside/__init__.py").write_text(f"__path__.append({str(here / 'stranger')!r})\n")
    return "outside.evil"


def by_a_lazy_import(here: Path, code: Callable[..., Path]) -> str:
    code(here / "stranger/evil.py")
    (here / "lazy.py").write_text("def f(num_classes):\n    import stranger.evil\n")
    return "lazy"


@pytest.mark.parametrize(
    "place",
    [
        in_a_namespace,
        in_a_package,
        below_a_package,
        deep_inside,
        by_a_link_to_the_file,
        by_a_link_to_the_bundle,
        by_a_link_out_of_the_bundle,
        by_a_package_outside,
        by_a_path_into_it,
        by_a_lazy_import,
    ],
)
def test_nothing_in_a_bundle_is_imported_even_where_it_is_allowed(
    place: Callable[..., str],
    naming: Callable[..., Path],
    here: Path,
    code: Callable[..., Path],
    ran: Ran,
) -> None:
    naming("fast_scnn")
    module = place(here, code)
    naming(f"{module}:f")
    bundle = open_bundle(here / "stranger", allow_networks=[module])
    sentence = "lies in the model bundle .*, and nothing in a bundle is ever run"
    with pytest.raises(NetworkError, match=sentence):
        load_network(bundle, CPU)
    with pytest.raises(NetworkError, match=sentence):  # nor where the user typed it himself
        build_network(f"{module}:f", 4)
    if module != "lazy":
        with pytest.raises(NetworkError, match=sentence):
            open_black_box(f"{module}:ask")
    assert ran() == []


@pytest.mark.parametrize("how", ["the current directory", "a folder of sys.path"])
def test_a_bundle_as_a_place_to_search_is_refused(
    how: str,
    naming: Callable[..., Path],
    code: Callable[..., Path],
    ran: Ran,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = naming("evil:f")
    code(path / "evil.py")
    if how == "the current directory":
        monkeypatch.chdir(path)
        with pytest.raises(NetworkError, match="lies in the model bundle"):
            load_network(open_bundle(path, allow_networks=["evil"]), CPU)
    else:
        sys.path.insert(0, str(path))
        try:
            with pytest.raises(NetworkError, match="lies in the model bundle"):
                load_network(open_bundle(path, allow_networks=["evil"]), CPU)
        finally:
            sys.path.remove(str(path))
    assert ran() == []


def test_a_folder_with_any_other_manifest_is_no_bundle(
    here: Path, code: Callable[..., Path], ran: Ran
) -> None:
    (here / "manifest.json").write_text('{"name": "a browser extension", "schema_version": 2}')
    code(here / "mine.py")
    build_network("mine:f", 4)
    assert ran() == ["mine"]
    assert bundle_around(here / "mine.py") is None


def test_no_file_of_the_current_directory_stands_in_for_what_is_installed(
    here: Path, code: Callable[..., Path], ran: Ran
) -> None:
    for name in ("colorsys", "numpy", "torch", "zipapp"):  # two are not imported yet
        code(here / f"{name}.py")
        sys.modules.pop(name, None) if name in ("colorsys", "zipapp") else None
    code(here / "mine.py", "import colorsys, numpy, torch")
    build_network("mine:f", 4)
    with pytest.raises(NetworkError, match=r"'f' does not exist in .*zipapp\.py"):
        import_callable("zipapp:f", "network", "a factory")
    assert ran() == ["mine"]


def test_a_package_of_the_same_name_as_an_installed_one_says_so(
    here: Path, code: Callable[..., Path], ran: Ran
) -> None:
    code(here / "typer/mine.py")
    with pytest.raises(NetworkError, match=r"below the installed .*typer.*give yours another name"):
        build_network("typer.mine:f", 4)
    assert ran() == []


def test_a_folder_without_init_joins_an_installed_one(
    here: Path, code: Callable[..., Path], ran: Ran, tmp_path: Path
) -> None:
    (tmp_path / "installed/shared_name").mkdir(parents=True)
    sys.path.insert(0, str(tmp_path / "installed"))
    try:
        code(here / "shared_name/mine.py")
        build_network("shared_name.mine:f", 4)
    finally:
        sys.path.remove(str(tmp_path / "installed"))
    assert ran() == ["shared_name.mine"]


# ---- networks that installed packages register --------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """``installed("dist", "name = module:factory")`` adds a distribution to the environment."""
    added = []

    def install(distribution: str, *points: str) -> Path:
        site = tmp_path / f"site-{distribution}"
        info = site / f"{distribution}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
        (info / "entry_points.txt").write_text("\n".join(["[roadshift.networks]", *points]))
        sys.path.append(str(site))
        added.append(str(site))
        return site

    yield install
    for site in added:
        sys.path.remove(site)


def test_a_registered_network_may_be_named_by_any_manifest(
    naming: Callable[..., Path],
    here: Path,
    code: Callable[..., Path],
    ran: Ran,
    installed: Callable[..., Path],
) -> None:
    path = naming("their_net")
    with pytest.raises(NetworkError, match="no network 'their_net'; choose one of deeplab"):
        load_network(open_bundle(path), CPU)
    try:
        code(installed("theirs", "their_net = their_package.nets:f") / "their_package/nets.py")
        code(here / "their_package/nets.py", "1 / 0")  # comes after what is installed
        load_network(open_bundle(path), CPU)
        assert ran() == ["their_package.nets"]
        with pytest.raises(NetworkError, match=r"choose one of .*, their_net"):
            build_network("unet", 4)
    finally:
        sys.path[:] = [entry for entry in sys.path if "site-theirs" not in entry]
        sys.path.append(str(here.parent / "site-theirs"))  # the fixture takes it out


def test_an_entry_point_never_replaces_one_of_ours(
    installed: Callable[..., Path], ran: Ran
) -> None:
    installed("greedy", "fast_scnn = no_such_module:f")
    assert type(build_network("fast_scnn", 4)).__name__ == "FastSCNN"
    assert ran() == []


def test_an_entry_point_of_two_packages_or_of_no_factory_is_refused(
    installed: Callable[..., Path],
) -> None:
    installed("one", "twice = a:f")
    installed("two", "twice = b:f", "whole = module", "nested = a:B.build")
    with pytest.raises(NetworkError, match=r"several installed packages \(a:f, b:f\)"):
        registered_factory("twice")
    for name in ("whole", "nested"):
        with pytest.raises(NetworkError, match=r"is no package\.module:factory"):
            registered_factory(name)
    assert registered_factory("nothing") is None


@pytest.mark.parametrize("name", ["fast_scnn", "anything", "x.evil"])
def test_a_name_without_a_colon_names_no_code(name: str) -> None:
    check_allowed(name, (), "a file: its network")


def test_a_bench_measures_what_runs_without_the_code_and_says_why_torch_does_not(
    naming: Callable[..., Path], here: Path, code: Callable[..., Path], ran: Ran
) -> None:
    code(here / "theirs.py")
    path = naming("theirs:f")
    opened = open_bundle(path, allow_networks=["tiny_network"])
    with extend_bundle(opened) as writer:
        writer.add_bytes("model.onnx", plain_onnx(opened), kind="onnx", precision="fp32")
        writer.commit()
    words = ["bench", str(path), "--queries", "1", "--warmup", "0", "--rounds", "1", "--json"]
    result = CliRunner().invoke(app, [*words, "--device", "cpu"])
    rows = {row["backend"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert rows["onnxruntime"]["error"] is None
    assert "with --allow-network theirs." in rows["torch"]["error"]
    assert ran() == []


def plain_onnx(bundle: Bundle) -> bytes:
    """A model of the bundle's input that finds the first class everywhere."""
    height, width = bundle.manifest.input.height, bundle.manifest.input.width
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, height, width, 3])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, height, width])
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMin", ["x", "axes"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "zero"], ["none"]),
        helper.make_node("Cast", ["none"], ["labels"], to=TensorProto.UINT8),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [3])
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0])
    graph = helper.make_graph(nodes, "plain", [image], [labels], [axes, zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def test_a_finished_run_that_is_resumed_gives_a_bundle_that_is_as_allowed(
    naming: Callable[..., Path], here: Path, code: Callable[..., Path], frames_dir: Path
) -> None:
    from roadshift.adapt import RunOptions, adapt_bundle, resolve_config

    code(here / "theirs.py")
    config = resolve_config("bn_stats", assignments=["bn_batch_size=3", "tone=none"])
    source = open_bundle(naming("theirs:f"), allow_networks=["theirs"])
    job = RunOptions(here / "out", device="cpu", resume=True)
    first, again = (adapt_bundle(source, [frames_dir], config, job) for _ in range(2))
    assert again == first
    load_network(again, CPU)
