"""Two hundred ways of tampering with a signed bundle: each is refused, and changes no slot."""

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from fleets import Fleet
from roadshift.runtime.bundle import open_bundle
from roadshift.runtime.bundle.packed import pack, unpacked
from roadshift.runtime.errors import BundleError, RoadshiftError
from roadshift.runtime.signing import generate_key, load_private_key, sign_bundle
from roadshift.runtime.signing.envelope import Envelope, parse_envelope, signed
from roadshift.runtime.slots import install
from signed_bundles import small_bundle

Tamper = Callable[[Path], None]
Way = tuple[str, Tamper, str]  # name, what is done to the folder, what the sentence says


def flips(name: str, places: int, sentence: str) -> Iterator[Way]:
    for number in range(places):

        def flip(folder: Path, number: int = number) -> None:
            content = bytearray((folder / name).read_bytes())
            content[(2 * number + 1) * len(content) // (2 * places)] ^= 1 << (number % 8)
            (folder / name).write_bytes(bytes(content))

        yield f"{name}: bit flipped in part {number} of {places}", flip, sentence


def flips_within(name: str, key: str, places: int) -> Iterator[Way]:
    """Bits of the base64 text under a key of a signature's envelope."""
    for number in range(places):

        def flip(folder: Path, number: int = number) -> None:
            text = (folder / name).read_text()
            start = text.index(f'"{key}": "') + len(key) + 5
            at = start + (2 * number + 1) * (text.index('"', start) - start) // (2 * places)
            other = "A" if text[at] != "A" else "B"
            (folder / name).write_text(text[:at] + other + text[at + 1 :])

        yield f"{name}: character changed in part {number} of {key}", flip, "."


def sizes(name: str, sentence: str) -> Iterator[Way]:
    for what, change in {
        "emptied": lambda c: c[:0],
        "cut by a byte": lambda c: c[:-1],
        "halved": lambda c: c[: len(c) // 2],
        "a byte longer": lambda c: c + b"\0",
        "doubled": lambda c: c + c,
        "reversed": lambda c: c[::-1],
    }.items():

        def resize(folder: Path, change: Callable[[bytes], bytes] = change) -> None:
            (folder / name).write_bytes(change((folder / name).read_bytes()))

        yield f"{name}: {what}", resize, sentence


def replaced(name: str, sentence: str) -> Iterator[Way]:
    def removed(folder: Path) -> None:
        (folder / name).unlink()

    def renamed(folder: Path) -> None:
        (folder / name).rename(folder / (name + ".bak"))

    def upper(folder: Path) -> None:
        (folder / name).rename(folder / name.upper())

    def linked(folder: Path) -> None:
        target = folder.parent / "elsewhere"
        shutil.move(folder / name, target)
        (folder / name).symlink_to(target)

    def hard_linked(folder: Path) -> None:
        os.link(folder / name, folder.parent / "second")

    def fifo(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    def folder_instead(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    def huge(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate(1 << 40)  # sparse

    def dangling(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("nowhere")

    def device(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")

    for way in (
        *(removed, renamed, upper, linked, hard_linked),
        *(fifo, folder_instead, huge, dangling, device),
    ):
        yield f"{name}: {way.__name__}", way, sentence


def added(names: list[str]) -> Iterator[Way]:
    for name in names:

        def add(folder: Path, name: str = name) -> None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")

        yield f"added {name!r}", add, "is not listed|is no signature|no regular file|no folder"

    def add_link(folder: Path) -> None:
        (folder / "link").symlink_to("model.onnx")

    def add_folder(folder: Path) -> None:
        (folder / "folder").mkdir()

    def add_fifo(folder: Path) -> None:
        os.mkfifo(folder / "pipe")

    for way in (add_link, add_folder, add_fifo):
        yield f"added: {way.__name__}", way, "is not listed"


def manifest_edits() -> Iterator[Way]:
    def edit(key: str, value: object) -> Tamper:
        def change(folder: Path) -> None:
            path = folder / "manifest.json"
            document = json.loads(path.read_text())
            at = document
            *way, last = key.split(".")
            for step in way:
                at = at[int(step) if step.isdigit() else step]
            at[int(last) if last.isdigit() else last] = value
            path.write_text(json.dumps(document, indent=2) + "\n")

        return change

    for key, value in {
        "input.gamma": 0.5,
        "input.colour": "bgr",
        "input.mean": [1, 1, 1],
        "input.std": [2, 2, 2],
        "input.width": 64,
        "input.height": 32,
        "label_space.classes": ["road", "building", "sky", "cat"],
        "label_space.name": "else",
        "label_space.colours": [[0, 0, 0]] * 4,
        "network.name": "evil.module:factory",
        "network.arguments": {"a": 1},
        "artefacts": [],
        "artefacts.0.sha256": "0" * 64,
        "artefacts.0.bytes": 1,
        "artefacts.0.path": "other.onnx",
        "artefacts.0.kind": "tensorrt",
        "artefacts.0.precision": "int8",
        "artefacts.0.details": {"x": 1},
        "provenance.parent": "0" * 64,
        "provenance.method": "magic",
        "provenance.seed": 7,
        "provenance.created": "1999",
        "measured": [{"name": "m", "value": 99.0, "unit": "%", "how": "said"}],
        "schema_version": 2,
        "provenance.device": "another",
    }.items():
        yield f"manifest: {key} = {value!r}", edit(key, value), "."

    def white_space(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(path.read_text() + " ")

    def byte_order_mark(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    yield "manifest: white space", white_space, "not the one that was signed"
    yield "manifest: byte order mark", byte_order_mark, "not the one that was signed"


def signatures(fleet: Fleet) -> Iterator[Way]:
    """Signatures that are foreign, old, expired, forged, or of another model."""
    generate_key(fleet.folder / "thief.key")
    thief = load_private_key(fleet.folder / "thief.key")
    other = fleet.model(50)
    old = fleet.model(1, weights_of=50)

    def only(folder: Path) -> Path:
        (path,) = (folder / "signatures").iterdir()
        return path

    def swap_model(folder: Path) -> None:
        shutil.copy(other.path / "model.onnx", folder / "model.onnx")

    def swap_manifest(folder: Path) -> None:
        shutil.copy(other.path / "manifest.json", folder / "manifest.json")

    def swap_signature(folder: Path) -> None:
        shutil.copy(only(other.path), only(folder))

    def swap_files(folder: Path) -> None:
        one, two = folder / "model.onnx", folder / "self-test.npz"
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)

    def old_version(folder: Path) -> None:
        shutil.rmtree(folder)
        shutil.copytree(old.path, folder)

    def unsigned(folder: Path) -> None:
        shutil.rmtree(folder / "signatures")

    def foreign(folder: Path) -> None:
        only(folder).unlink()
        sign(folder, thief)

    def renamed_key(folder: Path) -> None:
        envelope = parse_envelope(only(folder).read_bytes())
        only(folder).unlink()
        path = sign(folder, thief)
        theirs = parse_envelope(path.read_bytes())
        path.write_bytes(Envelope(envelope.key_id, theirs.payload, theirs.signature).to_bytes())

    def payload_changed(folder: Path) -> None:
        envelope = parse_envelope(only(folder).read_bytes())
        later = envelope.payload.replace(b'"version": 60', b'"version": 99')
        assert later != envelope.payload
        only(folder).write_bytes(Envelope(envelope.key_id, later, envelope.signature).to_bytes())

    def expired(folder: Path) -> None:
        sign(folder, fleet.key, datetime.now(timezone.utc) - timedelta(days=1))

    def empty_signature(folder: Path) -> None:
        envelope = parse_envelope(only(folder).read_bytes())
        only(folder).write_bytes(Envelope(envelope.key_id, envelope.payload, b"").to_bytes())

    def signed_twice_in_one(folder: Path) -> None:
        document = json.loads(only(folder).read_text())
        document["dsseEnvelope"]["signatures"] *= 2
        only(folder).write_text(json.dumps(document))

    def as_garage(folder: Path) -> None:
        only(folder).unlink()
        document = json.loads(parse_envelope(sign(folder, fleet.key).read_bytes()).payload)
        document["predicate"]["roadshift"]["role"] = "garage"
        payload = json.dumps(document).encode()
        only(folder).write_bytes(signed(payload, fleet.key).to_bytes())

    def many(folder: Path) -> None:
        content = only(folder).read_bytes()
        for number in range(70):
            (folder / "signatures" / f"n{number}.sig.json").write_bytes(content)

    def sign(folder: Path, key: object, expires: datetime | None = None) -> Path:
        return sign_bundle(open_bundle(folder), key, version=60, expires=expires)  # type: ignore[arg-type]

    for way, sentence in (
        (swap_model, "was changed|bytes"),
        (swap_manifest, "was changed|bytes"),
        (swap_signature, "not the one that was signed"),
        (swap_files, "was changed|bytes"),
        (old_version, "nothing before"),
        (unsigned, "is not signed"),
        (foreign, "is not trusted here"),
        (renamed_key, "forged or damaged"),
        (payload_changed, "forged or damaged"),
        (expired, "expired on"),
        (empty_signature, "forged or damaged"),
        (signed_twice_in_one, "not exactly one signature"),
        (as_garage, "signed as garage, and is a maker here"),
        (many, "holds more than 65 files"),
    ):
        yield f"signature: {way.__name__}", way, sentence


def ways(fleet: Fleet, signature: str) -> list[Way]:
    changed = "was changed|bytes"
    other = "was changed|bytes|missing|cannot be read|link|regular file|second name"
    return [
        *flips("model.onnx", 24, changed),
        *flips("self-test.npz", 16, changed),
        *flips("manifest.json", 32, "."),
        *(way for key in ("payload", "sig") for way in flips_within(signature, key, 12)),
        *(way for name in ("model.onnx", "self-test.npz") for way in sizes(name, changed)),
        *sizes("manifest.json", "."),
        *(way for way in sizes(signature, ".") if " byte" not in way[0]),
        *(way for name in ("model.onnx", "self-test.npz") for way in replaced(name, other)),
        *replaced("manifest.json", "."),
        # The name of a signature's file is nothing that anybody relies on.
        *(w for w in replaced(signature, ".") if not w[0].endswith(("renamed", "upper"))),
        *added(
            [
                *("extra.bin", "MODEL.ONNX", "Manifest.json", ".hidden", "model.onnx.bak"),
                *("signatures/x.sig.json", "signatures/parents/x", "Signatures", "é", "e\u0301"),
            ]
        ),
        *manifest_edits(),
        *signatures(fleet),
    ]


def test_every_way_of_tampering_is_refused(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.running(10)
    good = fleet.model(60)
    (signature,) = (good.path / "signatures").iterdir()
    before = fleet.store.state()
    table = ways(fleet, f"signatures/{signature.name}")
    assert len(table) >= 200
    assert len({name for name, _, _ in table}) == len(table)
    accepted = []
    for number, (name, tamper, sentence) in enumerate(table):
        folder = tmp_path / f"t{number}" / "bundle"
        shutil.copytree(good.path, folder)
        tamper(folder)
        try:
            install(fleet.store, folder, fleet.trust)
        except RoadshiftError as error:
            with pytest.raises(RoadshiftError, match=sentence):
                raise error
        else:
            accepted.append(name)
            break  # from here on the slot is another
        shutil.rmtree(folder.parent)
    assert accepted == []
    assert fleet.store.state().slots == before.slots
    install(fleet.store, good.path, fleet.trust)  # as it was signed
    fleet.store.audit()


def test_a_packed_bundle_is_the_same_bytes_and_comes_back_whole(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    bundle = fleet.model(1)
    one = pack(bundle, tmp_path / "one.roadshift")
    copied = shutil.copytree(bundle.path, tmp_path / "copied")
    os.utime(copied / "model.onnx", (0, 0))
    two = pack(type(bundle)(copied, bundle.manifest, bundle.hash), tmp_path / "two.roadshift")
    assert one.read_bytes() == two.read_bytes()
    with unpacked(one, beside=tmp_path) as folder:
        install(fleet.store, folder, fleet.trust)
    assert not folder.exists()


def test_a_file_that_is_no_packed_bundle_writes_nothing_outside(tmp_path: Path) -> None:
    for name, kind in (
        ("../evil", tarfile.REGTYPE),
        ("/tmp/evil", tarfile.REGTYPE),
        ("a/b/c/d/e", tarfile.REGTYPE),
        ("z" * 256, tarfile.REGTYPE),
        ("link", tarfile.SYMTYPE),
        ("device", tarfile.CHRTYPE),
        ("hard", tarfile.LNKTYPE),
    ):
        path = tmp_path / "evil.roadshift"
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            if kind != tarfile.REGTYPE:
                entry.linkname = "/etc/passwd"
            archive.addfile(entry)
        sentence = "no plain file" if kind == tarfile.REGTYPE else "no packed bundle"
        with (
            pytest.raises(BundleError, match=sentence) as caught,
            unpacked(path, beside=tmp_path),
        ):
            pass
        assert len(str(caught.value)) < 200 + len(str(path))
    for content in (b"", b"x" * 1000, b"\0" * 100):
        path.write_bytes(content)
        with pytest.raises(BundleError, match="no packed bundle"), unpacked(path):
            pass
    assert {p.name for p in tmp_path.iterdir()} == {"evil.roadshift"}
    assert small_bundle(tmp_path / "plain").path == tmp_path / "plain"
    with unpacked(tmp_path / "plain") as folder:
        assert folder == tmp_path / "plain"
