"""Bundles: written whole or not at all, read with every check, refused in one clear sentence."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roadshift.runtime import atomic
from roadshift.runtime.bundle import (
    SCHEMA_VERSION,
    Bundle,
    BundleWriter,
    InputSpec,
    Measurement,
    NetworkSpec,
    Provenance,
    check_output,
    extend_bundle,
    library_versions,
    open_bundle,
)
from roadshift.runtime.errors import BundleError, OutputError
from roadshift.runtime.labels import label_space
from roadshift.runtime.verdict import Check, Verdict

PARTS: dict[str, Any] = {
    "network": NetworkSpec(name="fast_scnn", arguments={"width": 1.0}),
    "label_space": label_space("camvid11"),
    "input": InputSpec(width=480, height=360, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0)),
    "provenance": Provenance(method="iapc", seed=3, frames=62, versions={"numpy": "2"}),
}
WEIGHTS = bytes(range(256)) * 20
VERDICT = Verdict(
    "keep",
    "It lost the sky.",
    (Check("area_lost", None, 1.0, None, None, 0.8, False, "The sky is gone."),),
    frames=16,
    seconds=1.5,
    incumbent="0" * 64,
)


def write(path: Path, weights: bytes = WEIGHTS, overwrite: bool = False) -> Bundle:
    with BundleWriter(path, overwrite) as writer:
        writer.add_bytes("model.safetensors", weights, kind="weights", precision="fp32")
        return writer.commit(**PARTS)


def edit_manifest(bundle: Bundle, **change: Any) -> None:
    path = bundle.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(tmp_path / "source")


# Writing and reading back


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    source = tmp_path / "history.jsonl"
    source.write_text('{"step": 1}\n')
    measured = (Measurement(name="miou", value=61.5, unit="%", how="62 frames"),)
    with BundleWriter(tmp_path / "out") as writer:
        writer.add_bytes("model.safetensors", WEIGHTS, kind="weights")
        writer.add_file("history.jsonl", source, kind="history")
        writer.open_path("model.onnx").write_bytes(b"onnx")
        writer.add_written("model.onnx", kind="onnx", precision="fp32", details={"opset": 20})
        written = writer.commit(**PARTS, measured=measured)
    read = open_bundle(tmp_path / "out")
    assert read == written
    assert read.manifest.schema_version == SCHEMA_VERSION
    assert read.label_space == PARTS["label_space"]
    assert read.manifest.measured == measured
    for key in ("network", "input", "provenance"):
        assert getattr(read.manifest, key) == PARTS[key]
    onnx = read.artefact(kind="onnx")
    assert onnx is not None
    assert onnx == read.artefact(name="model.onnx")
    assert (onnx.bytes, onnx.details) == (4, {"opset": 20})
    assert onnx.sha256 == hashlib.sha256(b"onnx").hexdigest()
    assert read.file(onnx).read_bytes() == b"onnx"
    assert read.artefact(kind="tensorrt") is None
    assert read.artefact(kind="onnx", name="history.jsonl") is None
    assert read.hash == hashlib.sha256((read.path / "manifest.json").read_bytes()).hexdigest()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(
    configuration=st.dictionaries(st.text(), json_values, max_size=4),
    value=st.floats(allow_nan=False, allow_infinity=False),
    how=st.text(),
)
def test_any_configuration_and_figure_survives(
    tmp_path_factory: pytest.TempPathFactory, configuration: dict[str, Any], value: float, how: str
) -> None:
    provenance = Provenance(configuration=configuration)
    measured = (Measurement(name="x", value=value, unit="ms", how=how),)
    path = tmp_path_factory.mktemp("round") / "out"
    with BundleWriter(path) as writer:
        written = writer.commit(**{**PARTS, "provenance": provenance}, measured=measured)
    read = open_bundle(path)
    assert read == written
    assert read.manifest.provenance.configuration == configuration


def test_artefact_may_be_replaced_before_commit(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out") as writer:
        writer.add_bytes("report.html", b"first", kind="report")
        writer.add_bytes("report.html", b"second", kind="report")
        written = writer.commit(**PARTS)
    assert len(written.manifest.artefacts) == 1
    assert (open_bundle(tmp_path / "out").path / "report.html").read_bytes() == b"second"


def test_a_file_that_was_never_listed_is_not_published(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out") as writer:
        writer.open_path("model.onnx.data").write_bytes(b"external weights")
        with pytest.raises(ValueError, match=r"model\.onnx\.data"):
            writer.commit(**PARTS)
    assert list(tmp_path.iterdir()) == []


def test_versions_name_python_roadshift_and_installed_libraries() -> None:
    import numpy as np

    versions = library_versions()
    assert versions["numpy"] == np.__version__
    assert {"python", "roadshift", "opencv"} <= set(versions)


# Reading what is broken


def test_a_changed_weight_byte_is_found(bundle: Bundle) -> None:
    data = bytearray(WEIGHTS)
    data[1000] ^= 1
    (bundle.path / "model.safetensors").write_bytes(data)
    found, expected = (hashlib.sha256(d).hexdigest()[:12] for d in (data, WEIGHTS))
    with pytest.raises(BundleError, match=rf"model\.safetensors.*{found}.*{expected}"):
        open_bundle(bundle.path)
    assert open_bundle(bundle.path, verify=False) == bundle


@pytest.mark.parametrize("verify", [True, False])
def test_an_artefact_that_is_no_regular_file_is_called_what_it_is(
    bundle: Bundle, verify: bool
) -> None:
    path = bundle.path / "model.safetensors"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleError, match=r"model\.safetensors: .*is a named pipe, not a regular"):
        open_bundle(bundle.path, verify=verify)
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleError, match=r"model\.safetensors: .*Is a directory"):
        open_bundle(bundle.path, verify=verify)


def test_a_truncated_or_missing_artefact_is_found_without_hashing(bundle: Bundle) -> None:
    (bundle.path / "model.safetensors").write_bytes(WEIGHTS[:-1])
    with pytest.raises(BundleError, match=rf"has {len(WEIGHTS) - 1} bytes.*says {len(WEIGHTS)}"):
        open_bundle(bundle.path, verify=False)
    (bundle.path / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"model\.safetensors: is listed in .* missing"):
        open_bundle(bundle.path, verify=False)


def test_a_manifest_cut_anywhere_is_refused(bundle: Bundle) -> None:
    manifest = bundle.path / "manifest.json"
    content = manifest.read_bytes()
    for length in [*range(0, len(content) - 2, 131), len(content) - 2]:
        manifest.write_bytes(content[:length])
        with pytest.raises(BundleError, match=r"manifest\.json: truncated or not JSON"):
            open_bundle(bundle.path)


def test_a_newer_schema_says_upgrade(bundle: Bundle) -> None:
    edit_manifest(bundle, schema_version=SCHEMA_VERSION + 1, invention="of the future")
    with pytest.raises(BundleError, match=r"newer roadshift.*upgrade"):
        open_bundle(bundle.path)


def test_an_artefact_outside_the_folder_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(WEIGHTS)
    artefact = json.loads((bundle.path / "manifest.json").read_text())["artefacts"][0]
    for name in ("../secret", "/etc/passwd", "..", "a\\b", "", "manifest.json", "a\0b"):
        edit_manifest(bundle, artefacts=[{**artefact, "path": name}])
        with pytest.raises(BundleError, match=r"invalid at 'artefacts\.0\.path'"):
            open_bundle(bundle.path)


def test_a_verdict_is_read_as_it_was_written_and_stays_when_a_bundle_grows(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "judged") as writer:
        writer.add_bytes("model.safetensors", WEIGHTS, kind="weights")
        writer.commit(**PARTS, verdict=VERDICT)
    said: list[str] = []
    judged = open_bundle(tmp_path / "judged", note=said.append)
    assert judged.manifest.verdict == VERDICT
    assert said == [f"{tmp_path / 'judged'}: {VERDICT.warning}"]
    with extend_bundle(judged) as writer:
        writer.add_bytes("model.onnx", b"graph", kind="onnx")
        writer.commit()
    assert open_bundle(tmp_path / "judged").manifest.verdict == VERDICT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "invalid at 'extra'"),
        ({"schema_version": None}, "no schema_version"),
        ({"schema_version": "1"}, "no schema_version"),
        ({"schema_version": 0}, "no schema_version"),
        ({"network": {}}, r"invalid at 'network\.name'"),
        ({"label_space": {"name": "x"}}, "invalid at 'label_space'.*missing keys"),
        ({"input": {"width": 0}}, r"invalid at 'input\.width'.*and 3 more"),
        ({"verdict": {**VERDICT.record(), "decision": "perhaps"}}, r"at 'verdict\.decision'"),
        ({"verdict": {**VERDICT.record(), "mood": "good"}}, r"invalid at 'verdict\.mood'"),
        ({"verdict": {**VERDICT.record(), "checks": [{}]}}, r"'verdict\.checks\.0\.name'.*more"),
    ],
)
def test_an_invalid_manifest_names_the_key(
    bundle: Bundle, change: dict[str, Any], message: str
) -> None:
    edit_manifest(bundle, **change)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle.path)


def test_duplicate_artefacts_and_zero_std_are_refused(bundle: Bundle) -> None:
    data = json.loads((bundle.path / "manifest.json").read_text())
    edit_manifest(bundle, artefacts=data["artefacts"] * 2)
    with pytest.raises(BundleError, match="same path"):
        open_bundle(bundle.path)
    edit_manifest(bundle, artefacts=[], input={**data["input"], "std": [1, 0, 1]})
    with pytest.raises(BundleError, match="std must be positive"):
        open_bundle(bundle.path)


def test_what_is_no_bundle_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="gone: does not exist"):
        open_bundle(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="is a file, and a bundle is a folder"):
        open_bundle(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BundleError, match=r"folder: is not a bundle, it has no manifest\.json"):
        open_bundle(tmp_path / "folder")


# Writing that fails


def test_an_exception_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted() -> None:
        with BundleWriter(tmp_path / "out") as writer:
            writer.add_bytes("model.safetensors", WEIGHTS, kind="weights")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_leaving_without_commit_publishes_nothing(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out") as writer:
        writer.add_bytes("model.safetensors", WEIGHTS, kind="weights")
    assert list(tmp_path.iterdir()) == []


DIE_WHILE_OVERWRITING = """
import os, sys
from roadshift.runtime import atomic; from roadshift.runtime.bundle import writer as bundle_writer
from roadshift.runtime.bundle import BundleWriter, open_bundle
path, moment = sys.argv[1:]
old = open_bundle(path).manifest
die = lambda *args, **kwargs: os._exit(7)
if moment == "before publishing":
    bundle_writer.publish = die
if moment == "after publishing":
    atomic.shutil.rmtree = die
with BundleWriter(path, overwrite=True) as writer:
    writer.add_bytes("model.safetensors", b"new", kind="weights")
    if moment == "while writing":
        die()
    writer.commit(network=old.network, input=old.input, provenance=old.provenance,
                  label_space=open_bundle(path).label_space)
"""


@pytest.mark.parametrize(
    ("moment", "survivor"),
    [("while writing", WEIGHTS), ("before publishing", WEIGHTS), ("after publishing", b"new")],
)
def test_a_killed_writer_leaves_the_old_or_the_new_bundle_whole(
    bundle: Bundle, moment: str, survivor: bytes
) -> None:
    command = [sys.executable, "-c", DIE_WHILE_OVERWRITING, str(bundle.path), moment]
    assert subprocess.run(command, check=False).returncode == 7
    read = open_bundle(bundle.path)
    assert (read.path / "model.safetensors").read_bytes() == survivor

    (left,) = bundle.path.parent.glob(".source.tmp-*")
    os.utime(left, (0, 0))  # long enough ago
    write(bundle.path, overwrite=True)
    assert list(bundle.path.parent.glob(".*")) == []  # the next writer cleans up


def test_a_staging_folder_in_use_is_not_cleaned_up(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out") as first:
        staged = first.add_bytes("model.safetensors", WEIGHTS, kind="weights")
        (folder,) = tmp_path.iterdir()
        os.utime(folder, (0, 0))
        with BundleWriter(tmp_path / "out"):
            assert (folder / staged.path).is_file()
        first.commit(**PARTS)
    assert open_bundle(tmp_path / "out").manifest.artefacts == (staged,)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["write_bytes", "write_text"])
def test_a_full_disk_is_one_sentence_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(Path, call, full_disk)
    with pytest.raises(OutputError, match="out: the disk is full"):
        write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_met_by_the_caller_is_reported_the_same(bundle: Bundle) -> None:
    def export() -> None:
        with extend_bundle(bundle) as writer:
            path = writer.open_path("model.onnx")
            path.symlink_to("/dev/full")  # every write to it fails with ENOSPC
            path.write_bytes(WEIGHTS)

    with pytest.raises(OutputError, match="source: the disk is full"):
        export()
    assert open_bundle(bundle.path) == bundle
    assert list(bundle.path.parent.iterdir()) == [bundle.path]


def test_an_input_file_that_is_missing_is_no_output_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), BundleWriter(tmp_path / "out") as writer:
        writer.add_file("history.jsonl", tmp_path / "gone.jsonl", kind="history")


# What may be overwritten


def test_an_existing_bundle_needs_overwrite(bundle: Bundle) -> None:
    with pytest.raises(OutputError, match=r"source: already exists.*overwrite=True"):
        BundleWriter(bundle.path)
    check_output(bundle.path, overwrite=True)
    write(bundle.path, b"new", overwrite=True)
    assert (bundle.path / "model.safetensors").read_bytes() == b"new"
    assert open_bundle(bundle.path).hash != bundle.hash
    assert list(bundle.path.parent.iterdir()) == [bundle.path]


def test_a_damaged_bundle_may_be_overwritten(bundle: Bundle) -> None:
    manifest = bundle.path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:100])
    write(bundle.path, b"new", overwrite=True)
    open_bundle(bundle.path)


@pytest.mark.parametrize("name", ["photo.jpg", "manifest.json"])
def test_a_foreign_folder_is_never_overwritten(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    (folder / name).write_text('{"manifest_version": 3}')
    with pytest.raises(OutputError, match="holiday: exists and is not a bundle"):
        write(folder, overwrite=True)
    assert (folder / name).read_text() == '{"manifest_version": 3}'


def test_a_file_is_never_overwritten_and_an_empty_folder_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="not a bundle"):
        check_output(tmp_path / "file", overwrite=True)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", overwrite=True)
    open_bundle(tmp_path / "empty")


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=rf"{tmp_path / 'gone'} is not an existing folder"):
        check_output(tmp_path / "gone" / "out")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is not an existing folder"):
        check_output(tmp_path / "file" / "out")


def test_an_unwritable_parent_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(OutputError, match="out: cannot write here"):
        check_output(tmp_path / "out")


def test_a_symbolic_link_stays_and_its_folder_is_replaced(bundle: Bundle, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(bundle.path)
    write(link, b"new", overwrite=True)
    assert link.is_symlink()
    assert (bundle.path / "model.safetensors").read_bytes() == b"new"


def test_overwriting_works_where_folders_cannot_be_exchanged(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    write(bundle.path, b"new", overwrite=True)
    assert (open_bundle(bundle.path).path / "model.safetensors").read_bytes() == b"new"
    assert list(bundle.path.parent.iterdir()) == [bundle.path]


def test_without_exchange_a_failed_rename_puts_the_old_bundle_back(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fails_for_the_new_one(self: Path, target: Path) -> Path:
        if ".tmp-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(OutputError, match="Input/output error"):
        write(bundle.path, b"new", overwrite=True)
    assert open_bundle(bundle.path) == bundle
    assert list(bundle.path.parent.iterdir()) == [bundle.path]


def test_a_published_bundle_is_readable_by_others(bundle: Bundle) -> None:
    (bundle.path.parent / "ordinary").mkdir()
    assert bundle.path.stat().st_mode == (bundle.path.parent / "ordinary").stat().st_mode


# Extending


def test_extending_keeps_links_replaces_and_merges(bundle: Bundle) -> None:
    weights = bundle.path / "model.safetensors"
    (bundle.path / "notes.txt").write_text("a user's own")
    inode = weights.stat().st_ino
    with extend_bundle(bundle) as writer:
        writer.add_bytes("model.onnx", b"one", kind="onnx")
        first = writer.commit(measured=[figure("miou", 1), figure("p50", 2)])
    with extend_bundle(first) as writer:
        writer.add_bytes("model.onnx", b"two", kind="onnx")
        second = writer.commit(measured=[figure("miou", 3)])

    read = open_bundle(bundle.path)
    assert read == second
    assert weights.stat().st_ino == inode
    assert (bundle.path / "model.onnx").read_bytes() == b"two"
    assert [a.path for a in read.manifest.artefacts] == ["model.safetensors", "model.onnx"]
    assert {m.name: m.value for m in read.manifest.measured} == {"miou": 3, "p50": 2}
    assert read.manifest.provenance == bundle.manifest.provenance
    assert (bundle.path / "notes.txt").read_text() == "a user's own"


def figure(name: str, value: float) -> Measurement:
    return Measurement(name=name, value=value, unit="", how="counted")


def test_a_failed_extension_leaves_the_bundle_as_it_was(bundle: Bundle) -> None:
    def fail() -> None:
        with extend_bundle(bundle) as writer:
            writer.open_path("model.safetensors").write_bytes(b"not through the hard link")
            raise RuntimeError("parity")

    with pytest.raises(RuntimeError, match="parity"):
        fail()
    assert open_bundle(bundle.path) == bundle


def test_extending_never_launders_a_tampered_artefact(bundle: Bundle) -> None:
    (bundle.path / "model.safetensors").write_bytes(WEIGHTS[::-1])
    with extend_bundle(open_bundle(bundle.path, verify=False)) as writer:
        writer.add_bytes("model.onnx", b"one", kind="onnx")
        with pytest.raises(BundleError, match="was changed while the bundle was added to"):
            writer.commit()
    with pytest.raises(BundleError, match="changed after it was written"):
        open_bundle(bundle.path)


def test_two_extensions_at_once_do_not_lose_each_other(bundle: Bundle) -> None:
    with extend_bundle(bundle) as slow:
        slow.add_bytes("model.onnx", b"slow", kind="onnx")
        with extend_bundle(bundle) as quick:
            quick.add_bytes("report.html", b"quick", kind="report")
            quick.commit()
        with pytest.raises(BundleError, match="changed by another program"):
            slow.commit()
    assert open_bundle(bundle.path).artefact(name="report.html") is not None


def test_a_new_bundle_without_a_part_is_a_bug(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out") as writer, pytest.raises(ValueError, match="'network'"):
        writer.commit(**{**PARTS, "network": None})


def test_a_name_in_another_encoding_leaves_a_manifest_that_is_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"fr\xfcher.pth")
    origin = Provenance(configuration={"weights": name})
    with BundleWriter(tmp_path / "b") as writer:
        writer.add_bytes("model.safetensors", b"w", kind="weights", details={"from": [name]})
        writer.commit(**{**PARTS, "provenance": origin})
    manifest = open_bundle(tmp_path / "b").manifest
    assert manifest.provenance.configuration == {"weights": r"fr\xfcher.pth"}
    assert manifest.artefacts[0].details == {"from": [r"fr\xfcher.pth"]}
