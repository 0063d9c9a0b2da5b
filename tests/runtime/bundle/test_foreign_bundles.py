"""Bundles of strangers, each way in tried without torch: opened, listed and run, or refused.

See SECURITY.md. A file that never ends must not hang or fill memory, and what is odd is an error of
one sentence. CPU only, a few seconds.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from roadshift.cli import app
from roadshift.runtime.bundle import Bundle, BundleWriter, InputSpec, extend_bundle, open_bundle
from roadshift.runtime.engines import open_engine
from roadshift.runtime.errors import BundleError, EngineError, LabelSpaceError, RoadshiftError
from roadshift.runtime.labels import LABEL_SPACES, LabelSpace, label_space
from typer.testing import CliRunner

MakeBundle = Callable[..., Bundle]
FRAME = np.zeros((16, 32, 3), np.uint8)


def rewritten(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> Path:
    """The bundle's folder, its manifest changed by someone who knows how."""
    file = bundle.path / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    return bundle.path


# ---- a file that is not one --------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        one.bind(path.name)
        os.chdir(here)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def huge(path: Path) -> None:
    path.write_bytes(b'{"schema_version": 1}')
    os.truncate(path, 1 << 40)  # sparse


ODD = [pipe, endless, folder, listening, loop, huge]


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_file_as_a_manifest_is_refused_at_once(
    odd: Callable[[Path], None], make_bundle: MakeBundle
) -> None:
    path = make_bundle().path
    (path / "manifest.json").unlink()
    odd(path / "manifest.json")
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read \(.+\)"):
        open_bundle(path)
    assert CliRunner().invoke(app, ["info", str(path)]).exit_code == 1


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("when", ["before it is opened", "after"])
def test_an_odd_file_as_an_artefact_is_refused_at_once(
    odd: Callable[[Path], None], when: str, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle()
    (bundle.path / "model.onnx").unlink()
    odd(bundle.path / "model.onnx")
    opened = bundle if when == "after" else bundle.path
    with pytest.raises(BundleError, match=r"model\.onnx"):
        open_engine(opened, device="cpu")


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_file_as_a_label_space_is_refused_at_once(
    odd: Callable[[Path], None], tmp_path: Path
) -> None:
    odd(tmp_path / "space.json")
    with pytest.raises(LabelSpaceError, match=r"space\.json: cannot read this label space \(.+\)"):
        label_space(str(tmp_path / "space.json"))


@pytest.mark.parametrize("odd", [pipe, endless, listening, loop])
def test_odd_files_beside_the_artefacts_are_never_opened(
    odd: Callable[[Path], None], make_bundle: MakeBundle
) -> None:
    bundle = make_bundle()
    odd(bundle.path / "odd")
    with extend_bundle(open_bundle(bundle.path)) as writer:
        writer.add_bytes("more.txt", b"more", kind="other")
        writer.commit()
    with open_engine(bundle.path, device="cpu") as engine:
        engine.segment(FRAME)


def test_an_addition_never_writes_through_a_link_of_the_bundle(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle, mine = make_bundle(), tmp_path / "mine"
    mine.write_bytes(b"mine")
    (bundle.path / "report.html").symlink_to(mine)
    os.link(mine, bundle.path / "history.jsonl")
    with extend_bundle(bundle) as writer:
        writer.add_bytes("report.html", b"theirs", kind="report")
        writer.add_bytes("history.jsonl", b"theirs", kind="history")
        writer.commit()
    assert mine.read_bytes() == b"mine"


OUTSIDE = ["../model.onnx", "/etc/passwd", "a/b", "..", "", "manifest.json", "a\\b", "a\x00b"]


@pytest.mark.parametrize("name", [*OUTSIDE, "\x1b[2J", "\x9b2J", "a" * 256, "ä" * 128])
def test_an_artefact_outside_of_the_folder_is_refused(name: str, make_bundle: MakeBundle) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["artefacts"][0]["path"] = name

    with pytest.raises(BundleError, match=r"artefacts\.0\.path"):
        open_bundle(rewritten(make_bundle(), change))


def test_a_path_too_long_for_the_system_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be looked at"):
        open_bundle(tmp_path / ("a" * 300))


# ---- JSON --------------------------------------------------------------------------------------

SAID = json.dumps({"schema_version": 1})
BAD_JSON = {
    "5,000 digits": ('{"schema_version": ' + "1" * 5000 + "}", "does not fit in 64 bits"),
    "deep arrays": ("[" * 200_000, "nested deeper than 100"),
    "deep objects": ('{"a":' * 5000 + "1" + "}" * 5000, "nested deeper than 100"),
    "not a number": ('{"schema_version": NaN}', "NaN is no number of JSON"),
    "infinity": ('{"schema_version": -Infinity}', "-Infinity is no number"),
    "too large": ('{"schema_version": 1e999}', "1e999 is too large"),
    "half a character": ('{"schema_version": 1, "a": "\\udc00"}', "half of a character"),
    "cut": ('{"schema_version": 1', "Expecting"),
    "two": (SAID + SAID, "Extra data"),
    "nothing": ("", "Expecting value"),
}


@pytest.mark.parametrize("bad", BAD_JSON)
def test_bad_json_is_a_sentence(bad: str, make_bundle: MakeBundle, tmp_path: Path) -> None:
    text, reason = BAD_JSON[bad]
    path = make_bundle().path
    (path / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=reason):
        open_bundle(path)
    (tmp_path / "space.json").write_text(text)
    with pytest.raises(LabelSpaceError, match=reason):
        label_space(str(tmp_path / "space.json"))


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_a_sentence(encoding: str, make_bundle: MakeBundle) -> None:
    path = make_bundle().path
    (path / "manifest.json").write_bytes('{"a": "Straße"}'.encode(encoding))
    with pytest.raises(BundleError, match="not UTF-8"):
        open_bundle(path)


def test_a_byte_order_mark_is_taken(make_bundle: MakeBundle, tmp_path: Path) -> None:
    path = make_bundle().path
    content = (path / "manifest.json").read_bytes()
    (path / "manifest.json").write_bytes(b"\xef\xbb\xbf" + content)
    assert open_bundle(path).label_space.name == "four"
    space = tmp_path / "space.json"
    space.write_text(json.dumps(label_space("camvid11").to_dict()), encoding="utf-8-sig")
    assert label_space(str(space)) == label_space("camvid11")


# ---- any value anywhere ------------------------------------------------------------------------

ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 255, 1 << 31, 1 << 63, 1e308, -0.0, 1e-320]),
    st.sampled_from(["", "x", "\x1b[31m", "a" * 1000, "..", "1" * 5000]),
    st.sampled_from([[], [[]], {}, {"x": 1}, [1, 2, 3], [None], {"1": {"2": []}}]),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    if not isinstance(value, dict | list):
        return [at]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))]


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    changed = copy.copy(value)
    changed[place[0]] = put(value[place[0]], place[1:], new)
    return changed


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_value_anywhere_in_a_manifest_is_read_or_refused(
    data: st.DataObject, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    if not (tmp_path / "bundle").exists():
        make_bundle()
        shutil.copy(tmp_path / "bundle/manifest.json", tmp_path / "manifest.json")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    place = data.draw(st.sampled_from(places(manifest)))
    changed = put(manifest, place, data.draw(ODD_VALUES))
    (tmp_path / "bundle/manifest.json").write_text(json.dumps(changed))
    result = CliRunner().invoke(app, ["info", str(tmp_path / "bundle")])
    assert result.exception is None or isinstance(result.exception, RoadshiftError | SystemExit)
    try:
        with open_engine(tmp_path / "bundle", device="cpu") as engine:
            engine.segment(FRAME)
            json.dumps(engine.describe())
    except RoadshiftError as error:
        assert str(error)  # noqa: PT017 - any other exception fails the test


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(LABEL_SPACES)))
def test_any_value_anywhere_in_a_label_space_is_read_or_refused(
    data: st.DataObject, name: str
) -> None:
    space = json.loads(json.dumps(label_space(name).to_dict()))
    changed = put(space, data.draw(st.sampled_from(places(space))), data.draw(ODD_VALUES))
    try:
        read = LabelSpace.from_dict(changed)
    except LabelSpaceError:
        return
    assert len(read.classes) == len(read.colours) == read.num_classes
    read.colourise(np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize("side", ["width", "height"])
def test_an_input_that_no_memory_holds_is_refused(side: str, make_bundle: MakeBundle) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["input"][side] = 100_000

    with pytest.raises(BundleError, match=rf"invalid at 'input\.{side}'"):
        open_bundle(rewritten(make_bundle(), change))


# ---- models ------------------------------------------------------------------------------------


def model_of(*nodes: onnx.NodeProto, domain: str = "") -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 16, 32, 3])],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, 16, 32])],
    )
    opsets = [helper.make_opsetid("", 18)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


FOREIGN_MODELS = {
    "an operator of another library": model_of(
        helper.make_node("Own", ["image"], ["labels"], domain="their.library"),
        domain="their.library",
    ),
    "Python in a node": model_of(
        helper.make_node("PyOp", ["image"], ["labels"], domain="ai.onnx.contrib"),
        domain="ai.onnx.contrib",
    ),
    "a compiled engine": model_of(
        helper.make_node(
            "EPContext",
            ["image"],
            ["labels"],
            domain="com.microsoft",
            embed_mode=0,
            ep_cache_context="/tmp/engine.plan",
        ),
        domain="com.microsoft",
    ),
    "ONNX Runtime's own format": b"\x18\x00\x00\x00ORTM" + bytes(64),
    "no model": b"no model at all",
    "nothing": b"",
}


@pytest.mark.parametrize("model", FOREIGN_MODELS)
def test_a_model_that_brings_code_or_is_none_does_not_run(
    model: str, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle(models={"model.onnx": FOREIGN_MODELS[model]})
    with pytest.raises(EngineError, match=r"model\.onnx cannot be loaded by ONNX Runtime \(.+\);"):
        open_engine(open_bundle(bundle.path), device="cpu")


def test_a_folder_that_is_overwritten_was_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/manifest.json").write_text(" " * 100 + '{"schema_version": 1}')
    with pytest.raises(RoadshiftError, match="exists and is not a bundle"):
        BundleWriter(tmp_path / "mine", overwrite=True)


def test_the_size_limit_is_that_of_opencv() -> None:
    assert InputSpec(width=32767, height=1, mean=(0, 0, 0), std=(1, 1, 1)).width == 32767
