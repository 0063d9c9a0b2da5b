"""A packed bundle has one form: what `pack` would not have written is refused, byte for byte."""

from __future__ import annotations

import io
import tarfile
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from fleets import Fleet
from roadshift.commands.signing import verify
from roadshift.runtime.bundle import Bundle, BundleWriter, open_bundle
from roadshift.runtime.bundle.packed import hash_of, pack, unpacked
from roadshift.runtime.errors import BundleError, SignatureError
from roadshift.runtime.slots import install
from signed_bundles import small_bundle

Entry = tuple[tarfile.TarInfo, bytes]
BLOCK, RECORD = 512, 10240


def as_before(folder: Path, path: Path) -> Path:
    """The archive as `pack` wrote it when it left that to tarfile."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return written(path, [(plain(folder, name), (folder / name).read_bytes()) for name in names])


def plain(folder: Path, name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = (folder / name).stat().st_size, 0o644
    return entry


def written(path: Path, entries: list[Entry], format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for entry, content in entries:
            archive.addfile(entry, io.BytesIO(content))
    return path


def again(path: Path, change: Callable[[list[Entry]], object], format: int) -> bytes:
    """The archive's files in another archive, after a change of what is listed."""
    with tarfile.open(path) as archive:
        entries = [(e, archive.extractfile(e).read()) for e in archive]  # type: ignore[union-attr]
    change(entries)
    return written(path.with_name("again"), entries, format).read_bytes()


def changed(content: bytes, at: int, byte: int | None = None) -> bytes:
    return content[:at] + bytes([content[at] ^ 1 if byte is None else byte]) + content[at + 1 :]


def mode(entries: list[Entry]) -> None:
    for entry, _ in entries:
        entry.mode = 0o4777


def comment(entries: list[Entry]) -> None:
    entries[0][0].pax_headers = {"comment": "take the other one"}


def owner(entries: list[Entry]) -> None:
    entries[-1][0].uname = "root"


def renamed(entries: list[Entry]) -> None:
    entries[0][0].name = "./" + entries[0][0].name


def none(_: list[Entry]) -> None:
    pass


GNU, PAX, USTAR = tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT
DAMAGES: dict[str, Callable[[Path], bytes]] = {
    "text behind": lambda p: p.read_bytes() + b"text" * 475,
    "a zero behind": lambda p: p.read_bytes() + b"\0",
    "a record of zeros behind": lambda p: p.read_bytes() + bytes(RECORD),
    "twice": lambda p: p.read_bytes() * 2,
    "a byte in the end": lambda p: changed(p.read_bytes(), -1),
    "a byte in the second of the two last blocks": lambda p: changed(
        p.read_bytes(), len(p.read_bytes().rstrip(b"\0")) // BLOCK * BLOCK + 3 * BLOCK
    ),
    "a byte behind a file": lambda p: changed(p.read_bytes(), p.read_bytes().index(b"}\n\0") + 3),
    "cut by a byte": lambda p: p.read_bytes()[:-1],
    "cut by the two last blocks": lambda p: p.read_bytes().rstrip(b"\0"),
    "cut in a file": lambda p: p.read_bytes()[: p.stat().st_size // 2],
    "cut in a header": lambda p: p.read_bytes()[:100],
    "only the end": lambda _: bytes(RECORD - 1),
    "a header damaged": lambda p: changed(p.read_bytes(), p.read_bytes().index(b"signatures")),
    "the first header damaged": lambda p: changed(p.read_bytes(), 150),
    "a header blank": lambda p: p.read_bytes().replace(b"signatures/", bytes(11)),
    "a larger size": lambda p: changed(p.read_bytes(), 124, 0x80),
    "another order": lambda p: again(p, lambda e: e.reverse(), GNU),
    "a file twice": lambda p: again(p, lambda e: e.insert(0, e[0]), GNU),
    "mode 4777": lambda p: again(p, mode, GNU),
    "an owner": lambda p: again(p, owner, GNU),
    "a comment": lambda p: again(p, comment, PAX),
    "POSIX headers": lambda p: again(p, none, USTAR),
    "another way of the same name": lambda p: again(p, renamed, GNU),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_pack_would_not_have_written_is_refused(tmp_path: Path, damage: str) -> None:
    fleet = Fleet(tmp_path)
    packed = pack(fleet.model(1), tmp_path / "m.roadshift")
    verify(packed, fleet.trust.path)
    packed.write_bytes(DAMAGES[damage](packed))
    with pytest.raises(SignatureError, match=r"no packed bundle|no plain file") as caught:
        verify(packed, fleet.trust.path)
    assert str(packed) in str(caught.value)
    assert caught.value.exit_code == 8
    with pytest.raises(BundleError, match=r"no packed bundle|no plain file"):
        install(fleet.store, packed, fleet.trust)
    assert not fleet.store.state().slots
    assert not list(fleet.store.path.glob(".unpacked*"))


def test_no_byte_outside_the_files_may_be_another(tmp_path: Path) -> None:
    packed = pack(small_bundle(tmp_path / "b"), tmp_path / "m.roadshift")
    content = packed.read_bytes()
    with tarfile.open(packed) as archive:
        of_files = {at for e in archive for at in range(e.offset_data, e.offset_data + e.size)}
    others = [at for at in range(len(content)) if at not in of_files]
    last = max(of_files)
    for at in [at for at in others if at % (11 if at < last + 4 * BLOCK else 97) == 0]:
        packed.write_bytes(changed(content, at))
        with pytest.raises(BundleError, match="no packed bundle"), unpacked(packed):
            pass


def with_names(path: Path, *names: str) -> Bundle:
    source = small_bundle(path.with_name("source"))
    manifest = source.manifest
    with BundleWriter(path) as writer:
        for name in names:
            writer.add_bytes(name, name.encode("utf-8", "surrogateescape"), kind="other")
        return writer.commit(
            network=manifest.network,
            label_space=source.label_space,
            input=manifest.input,
            provenance=manifest.provenance,
        )


def test_what_was_packed_before_is_the_same_file_and_opens(tmp_path: Path) -> None:
    long = [letter * length for letter, length in (("a", 99), ("b", 100), ("c", 101), ("d", 200))]
    bundle = with_names(tmp_path / "b", *long, "é" * 90, "empty-not", "z" * 50)
    before = as_before(bundle.path, tmp_path / "before.roadshift")
    assert pack(bundle, tmp_path / "now.roadshift").read_bytes() == before.read_bytes()
    with unpacked(before) as folder:
        assert open_bundle(folder).hash == bundle.hash
    content = bytearray(before.read_bytes())
    at = content.index(b"././@LongLink")
    content[at + BLOCK + 150] ^= 1  # behind the long name, which no checksum covers
    before.write_bytes(content)
    with pytest.raises(BundleError, match="no packed bundle"), unpacked(before):
        pass


def test_a_large_file_is_not_read_into_memory(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    with (folder / "large").open("wb") as file:
        file.truncate(64 << 20)
    packed = as_before(folder, tmp_path / "large.roadshift")
    tracemalloc.start()
    with unpacked(packed) as found:
        assert (found / "large").stat().st_size == 64 << 20
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8 << 20


@pytest.mark.parametrize("usable", [True, False])
def test_a_tmpdir_that_cannot_be_used_is_spoken_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    usable: bool,
) -> None:
    fleet = Fleet(tmp_path)
    packed = pack(fleet.model(1), tmp_path / "m.roadshift")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path if usable else tmp_path / "gone"))
    verify(packed, fleet.trust.path)
    gone = f"TMPDIR is {tmp_path}/gone, where no file can be written; {tmp_path} is used instead."
    assert (gone in " ".join(capsys.readouterr().err.split())) != usable
    with unpacked(packed, beside=tmp_path, note=pytest.fail):  # a folder was named
        pass


def test_a_name_that_says_it_is_huge_is_not_read(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    packed = tmp_path / "m.roadshift"
    packed.write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(RECORD))
    with pytest.raises(BundleError, match="no packed bundle"), unpacked(packed):
        pass


def test_the_hash_of_a_packed_bundle_needs_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = small_bundle(tmp_path / "model")
    file = pack(bundle, tmp_path / "model.roadshift")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a full disk"))
    assert hash_of(file) == hash_of(bundle.path) == bundle.hash
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BundleError, match=r"model\.roadshift: is no packed bundle"):
        hash_of(file)
    file.write_bytes(bytes(10240))
    with pytest.raises(BundleError, match=r"model\.roadshift: is not a bundle, it has no manifest"):
        hash_of(file)
