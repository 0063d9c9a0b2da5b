"""Files given as weights: read by what they hold, or refused by what they are."""

from __future__ import annotations

import argparse
import datetime
import gzip
import os
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper
from roadshift.adapt.models.importing import read_checkpoint
from roadshift.runtime.errors import NetworkError
from torch import nn

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3)}


@pytest.mark.parametrize("suffix", [".safetensors", ".SAFETENSORS", ".SafeTensors", ".bin", ""])
def test_safetensors_are_read_whatever_the_suffix(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(safetensors.torch.save(STATE))
    assert torch.equal(read_checkpoint(path)["conv.weight"], STATE["conv.weight"])


@pytest.mark.parametrize("suffix", [".pth", ".PTH", ".ckpt", ".tar", ".safetensors", ".model", ""])
@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_are_read_whatever_the_suffix(
    tmp_path: Path, suffix: str, zipped: bool
) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_checkpoint(path)["conv.weight"], STATE["conv.weight"])


def onnx_bytes(producer: str = "") -> bytes:
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "ab"]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", value[:1], value[1:])
    model: onnx.ModelProto = helper.make_model(graph, producer_name=producer)
    data: bytes = model.SerializeToString()
    return data


def zip_of(path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")


def tar_of(path: Path) -> None:
    (path.parent / "inside.pth").write_bytes(b"x")
    with tarfile.open(path, "w") as archive:
        archive.add(path.parent / "inside.pth", "inside.pth")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
HTML = b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
KINDS: dict[str, tuple[bytes | Callable[[Path], None], str]] = {
    "git lfs": (LFS, "is a Git LFS pointer.*git lfs pull"),
    "html": (HTML, "is a web page.*download"),
    "html after space": (b"\n\n  <html lang='en'>" + b"x" * 9000, "is a web page"),
    "xml error": (
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>',
        "is an XML document.*server",
    ),
    "index of shards": (
        b'{"metadata": {}, "weight_map": {"a": "model-00001-of-2.safetensors"}}',
        "is the index of weights that lie in several files",
    ),
    "json": (b'{"message": "Not Found"}', "is a text file .*Not Found"),
    "text": ("Größe: 3\n".encode() * 900, "is a text file"),
    "empty": (b"", "is empty"),
    "zeros": (bytes(5000), "holds zeros"),
    "onnx": (onnx_bytes(), "is an ONNX model.*black box"),
    "onnx of pytorch": (onnx_bytes("pytorch"), "is an ONNX model"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file, as Keras"),
    "keras": (lambda p: zip_of(p, ["config.json", "model.weights.h5"]), "is a Keras model"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(100), "is a TensorFlow Lite model"),
    "zip of a folder": (
        lambda p: zip_of(p, ["run/log.txt", "run/best.pth"]),
        r"is a zip archive; unpack it and give run/best\.pth",
    ),
    "zip without weights": (
        lambda p: zip_of(p, ["a.txt", "b/c.txt"]),
        "is a zip archive of 2 files and none",
    ),
    "npz": (lambda p: np.savez(p.open("wb"), a=np.ones(3)), "is an archive of NumPy arrays"),
    "npy": (lambda p: np.save(p.open("wb"), np.ones(3)), "is a NumPy array"),
    "tar": (tar_of, "is a tar archive; unpack"),
    "gzip": (gzip.compress(b"weights"), "is a gzip archive; unpack"),
    "torchscript": (
        lambda p: torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 1)), str(p)),
        "is a TorchScript archive.*re-save",
    ),
    "plan": (b"ftrt\x00\x00\x00\x00", "is a TensorRT plan"),
    "gguf": (b"GGUF\x03\x00\x00\x00", "is a GGUF file"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "is a PNG picture"),
    "noise": (b"\xfe\xff4Vx9Qa\xa0\x07\xb3+\x9d\xc4\x11\xee\xfe\xff", "damaged, or not"),
    "noise with a brace": (b"\xfe\xff4Vx9Qa{\x07\xb3+\x9d\xc4\x11\xee\xfe\xff", "damaged, or not"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_another_kind_of_file_is_named_with_what_to_do(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    content, sentence = KINDS[kind]
    path = tmp_path / f"weights{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    if kind.startswith("noise") and suffix == ".safetensors":
        sentence = "not a readable safetensors file"
    with pytest.raises(NetworkError, match=rf"weights{suffix}: {sentence}") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_cut_off_is_damaged(tmp_path: Path) -> None:
    torch.save({"w": torch.randn(4000)}, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    for kept in (len(whole) // 2, len(whole) - 30):
        (tmp_path / "w.pth").write_bytes(whole[:kept])
        with pytest.raises(NetworkError, match="is damaged: the end of its zip archive"):
            read_checkpoint(tmp_path / "w.pth")


def test_a_folder_is_no_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    with pytest.raises(NetworkError, match="is a folder; give the file of weights"):
        read_checkpoint(tmp_path / "hub")
    (tmp_path / "hub" / "model.SAFETENSORS").touch()
    with pytest.raises(NetworkError, match=r"is a folder; give .* such as model\.SAFETENSORS"):
        read_checkpoint(tmp_path / "hub")
    (tmp_path / "hub" / "manifest.json").touch()
    with pytest.raises(NetworkError, match="is a bundle already"):
        read_checkpoint(tmp_path / "hub")


def test_what_never_ends_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.pth", Path("/dev/zero")):
        with pytest.raises(NetworkError, match="is no regular file"):
            read_checkpoint(path)


@pytest.mark.parametrize("content", [None, 3, torch.ones(3), [1.0, "a"], {"a": {"b": {}}}, ()])
def test_what_holds_no_named_tensor_is_no_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(NetworkError, match="holds no state dict"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_no_weights(tmp_path: Path) -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    torch.save({"a": nested}, tmp_path / "w.pth")
    with pytest.raises(NetworkError, match="'a' is a nested tensor"):
        read_checkpoint(tmp_path / "w.pth")


EXTRAS = {
    "arguments": argparse.Namespace(lr=0.1, out=Path("runs")),
    "score": np.float64(0.71),
    "scores": {"iou": np.ones(3, np.float32), "best": np.float32(1)},
    "history": defaultdict(list, {"loss": [1.0, 2.0]}),
    "date": datetime.date(2024, 1, 2),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_what_scripts_save_beside_weights_is_passed_over(tmp_path: Path, name: str) -> None:
    torch.save({name: EXTRAS[name], "state_dict": STATE}, tmp_path / "w.pth")
    assert list(read_checkpoint(tmp_path / "w.pth")) == ["state_dict.conv.weight"]


def test_a_class_of_a_well_known_name_is_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"a": argparse.Namespace(x=1), "model": STATE}, tmp_path / "w.pth")

    def called(*_: object, **__: object) -> None:
        raise AssertionError("the class of the file was used")

    monkeypatch.setattr(argparse.Namespace, "__init__", called)
    monkeypatch.setattr(argparse.Namespace, "__setstate__", called, raising=False)
    assert list(read_checkpoint(tmp_path / "w.pth")) == ["model.conv.weight"]


class Hostile:
    """An object whose pickle calls a function of this file."""

    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run",)


@pytest.mark.parametrize(
    "content", [nn.Linear(2, 2), {"model": STATE, "x": Hostile()}], ids=["network", "hostile"]
)
def test_everything_else_is_refused_as_before(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(NetworkError, match=r"holds more than tensors .* would run code"):
        read_checkpoint(tmp_path / "w.pth")
