"""Several programs add to one bundle at once: what one reports as written is there.

CPU only; real processes, some seconds.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from roadshift.runtime.atomic import locked_folder
from roadshift.runtime.bundle import (
    Bundle,
    BundleWriter,
    InputSpec,
    NetworkSpec,
    Provenance,
    extend_bundle,
    open_bundle,
)
from roadshift.runtime.bundle import writer as bundle_writer
from roadshift.runtime.errors import BundleError
from roadshift.runtime.labels import label_space

ADDITIONS, PROCESSES = 12, 4
ADDER = """
import sys, time
from roadshift.runtime.bundle import BundleWriter, extend_bundle, open_bundle
from roadshift.runtime.errors import RoadshiftError

check = BundleWriter._check_target
def slow_check(writer):  # others get between it and what follows, if they can
    check(writer)
    time.sleep(0.01)
BundleWriter._check_target = slow_check

path, who, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.stdin.readline()
for i in range(count):
    name = f"{who}-{i}.txt"
    try:
        with extend_bundle(open_bundle(path)) as writer:
            writer.add_bytes(name, name.encode(), kind="other")
            writer.commit()
    except RoadshiftError as error:
        print("refused", name, error)
    else:
        print("added", name)
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    with BundleWriter(tmp_path / "bundle") as writer:
        writer.add_bytes("model.safetensors", b"weights", kind="weights")
        return writer.commit(
            network=NetworkSpec(name="fast_scnn"),
            label_space=label_space("cityscapes19"),
            input=InputSpec(width=64, height=32, mean=(0, 0, 0), std=(1, 1, 1)),
            provenance=Provenance(),
        )


@pytest.mark.parametrize("exchange", ["exchange", "renames"])
def test_what_is_reported_as_added_is_there_and_the_rest_was_refused(
    bundle: Bundle, exchange: str, tmp_path: Path
) -> None:
    program = ADDER
    if exchange == "renames":  # a file system that cannot exchange two names
        program = "import roadshift.runtime.atomic as a\na._exchange = lambda *_: False\n" + ADDER
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(bundle.path), str(who), str(ADDITIONS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for who in range(PROCESSES)
    ]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = []
    for process in running:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        told += [line.split(maxsplit=2) for line in out.splitlines()]
    assert len(told) == PROCESSES * ADDITIONS
    added = {words[1] for words in told if words[0] == "added"}
    found = open_bundle(bundle.path)  # complete, every hash right
    assert {a.path for a in found.manifest.artefacts} == {"model.safetensors", *added}
    assert added
    assert not list(tmp_path.glob(".bundle*"))


def test_an_addition_to_what_was_replaced_meanwhile_is_refused(bundle: Bundle) -> None:
    with extend_bundle(bundle) as late:
        late.add_bytes("late.txt", b"late", kind="other")
        with extend_bundle(bundle) as first:
            first.add_bytes("first.txt", b"first", kind="other")
            first.commit()
        with pytest.raises(BundleError, match="changed by another program meanwhile; run this"):
            late.commit()
    kept = [artefact.path for artefact in open_bundle(bundle.path).manifest.artefacts]
    assert kept == ["model.safetensors", "first.txt"]


@pytest.mark.parametrize("when", ["before the files are taken over", "after"])
def test_a_file_that_was_changed_is_not_published_under_its_old_hash(
    bundle: Bundle, when: str
) -> None:
    def spoil() -> None:
        (bundle.path / "model.safetensors").write_bytes(b"weighty")

    if when != "after":
        spoil()
    with extend_bundle(bundle) as writer:
        if when == "after":
            spoil()
        writer.add_bytes("more.txt", b"more", kind="other")
        with pytest.raises(BundleError, match=r"model\.safetensors: was changed while the bundle"):
            writer.commit()
    assert not (bundle.path / "more.txt").exists()


def test_files_that_vanish_while_they_are_taken_over_mean_another_program(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(source: str, destination: str) -> None:
        (bundle.path / "manifest.json").write_bytes(b"another")
        raise FileNotFoundError(2, "No such file or directory", source, None, destination)

    monkeypatch.setattr(bundle_writer, "_link_or_copy", vanish)
    with (
        pytest.raises(BundleError, match="changed by another program meanwhile"),
        extend_bundle(bundle),
    ):
        pass


def test_a_lock_is_of_the_folder_that_has_the_name_now(tmp_path: Path) -> None:
    """The first holder replaces the folder; the second then holds the new one."""
    folder, order = tmp_path / "folder", tmp_path / "order"
    folder.mkdir()
    waiting = (
        "import sys; from pathlib import Path\n"
        "from roadshift.runtime.atomic import locked_folder\n"
        "print('waiting', flush=True)\n"
        "with locked_folder(Path(sys.argv[1])):\n"
        "    print(sorted(p.name for p in Path(sys.argv[1]).iterdir()), flush=True)\n"
    )
    with locked_folder(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", waiting, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        folder.rename(order)
        folder.mkdir()
        (folder / "new").touch()
    assert process.communicate(timeout=60)[0] == "['new']\n"


def test_an_error_of_whoever_holds_a_folder_is_his_own(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match="mine"), locked_folder(folder):
            raise FileNotFoundError("mine")
