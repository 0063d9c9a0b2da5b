"""`roadshift verify` and `slot status`: one exit code for every refusal, files as given."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleets import Fleet
from roadshift.commands.signing import verify
from roadshift.commands.slot import status
from roadshift.runtime.bundle.packed import pack
from roadshift.runtime.errors import BundleError, SignatureError
from roadshift.runtime.slots import create_slots, try_model


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "changed": lambda b: changed(b.path / "model.onnx"),
    "cut": lambda b: (b.path / "model.onnx").write_bytes(b""),
    "gone": lambda b: (b.path / "model.onnx").unlink(),
    "manifest changed": lambda b: changed(b.path / "manifest.json"),
    "manifest gone": lambda b: (b.path / "manifest.json").unlink(),
    "unsigned": lambda b: [one.unlink() for one in (b.path / "signatures").iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_refuses_with_one_exit_code(tmp_path: Path, damage: str) -> None:
    fleet = Fleet(tmp_path)
    bundle = fleet.model(1)
    verify(bundle.path, fleet.trust.path)
    DAMAGES[damage](bundle)
    with pytest.raises(SignatureError) as caught:
        verify(bundle.path, fleet.trust.path)
    assert caught.value.exit_code == 8
    assert str(bundle.path) in str(caught.value)


def test_verify_of_nothing_is_another_exit_code(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    for name in ("nothing", "x" * 300):
        with pytest.raises(BundleError) as caught:
            verify(tmp_path / name, fleet.trust.path)
        assert caught.value.exit_code == 1


def test_verify_names_the_packed_file(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    bundle = fleet.model(1)
    model = bundle.path / "model.onnx"
    packed = pack(bundle, tmp_path / "m.roadshift")
    verify(packed, fleet.trust.path)
    content = packed.read_bytes()
    at = content.index(model.read_bytes())
    packed.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(SignatureError, match=r"model\.onnx") as caught:
        verify(packed, fleet.trust.path)
    assert f"{packed}/model.onnx" in str(caught.value)
    assert "unpacked" not in str(caught.value)
    packed.write_bytes(b"no archive")
    with pytest.raises(SignatureError, match="is no packed bundle"):
        verify(packed, fleet.trust.path)


def test_one_start_is_left_and_three_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet(tmp_path)
    for starts, said in ((1, "1 start is left."), (3, "3 starts are left.")):
        fleet.store = create_slots(tmp_path / f"slots{starts}", starts=starts)
        fleet.installed(starts)
        try_model(fleet.store, fleet.trust)
        status(fleet.store.path)
        assert said in capsys.readouterr().out
