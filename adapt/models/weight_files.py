"""Files of weights: told apart by their first bytes, read without running their code.

Pickle is a program; ``torch.load`` is only ever called with ``weights_only=True``, and a file that
needs more is refused, but for what scripts usually save beside weights (`inert_pickle`). What is no
file of PyTorch weights is refused by what it is, with what to do.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from ...runtime.errors import NetworkError
from ...runtime.lfs_pointers import IS_LFS_POINTER, LFS_START
from .inert_pickle import inert_extras

RESAVE = "re-save it with torch.save(model.state_dict(), path)"
_HEAD_BYTES = 4096
_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")


def read_weight_file(path: Path | str) -> Any:
    """The content of a safetensors file or a PyTorch checkpoint, on the CPU, of any suffix.

    Raises:
        NetworkError: the file is missing, damaged, of another kind, or would run code when read.
    """
    path = Path(path)
    head = _head(path)
    if _is_safetensors(path, head):
        return _read_safetensors(path)
    if (kind := foreign_kind(path, head)) is not None:
        raise NetworkError(f"{path}: {kind}.")
    return _read_pickle(path)


def _head(path: Path) -> bytes:
    """The first bytes of a regular file that is not empty."""
    if path.is_dir():
        raise NetworkError(f"{path}: is a folder; {_folder_advice(path)}.")
    if not path.exists():
        raise NetworkError(f"{path}: no such file; give the checkpoint to read.")
    if not path.is_file():  # a pipe or a device may never end
        raise NetworkError(f"{path}: is no regular file; give the checkpoint to read.")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({error.strerror}).") from error
    if not head:
        raise NetworkError(f"{path}: is empty; download or copy it again.")
    return head


def _folder_advice(path: Path) -> str:
    if (path / "manifest.json").is_file():
        return "with its manifest.json it is a bundle already and needs no import"
    if (path / "saved_model.pb").is_file():
        return "it is a TensorFlow SavedModel, and only PyTorch weights are read"
    with suppress(OSError):
        names = sorted(p.name for p in path.iterdir() if p.suffix.lower() in _SUFFIXES)
        if names:
            return f"give a file in it, such as {names[0]}"
    return "give the file of weights"


# ---- what else a file may be ---------------------------------------------------------------------

# How a file of another kind begins, what it is, and what to do.
_EXPORTED = "give the PyTorch weights that it was exported from"
_UNPACK = "unpack it and give the file of weights in it"
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (LFS_START, IS_LFS_POINTER),
    (
        b"\x89HDF\r\n\x1a\n",
        "is an HDF5 file, as Keras and TensorFlow write weights, and only PyTorch weights are "
        "read; convert it there first",
    ),
    (b"GGUF", "is a GGUF file of a quantised model; give the PyTorch weights it was made from"),
    (b"ftrt", f"is a TensorRT plan; {_EXPORTED}"),
    (b"\x93NUMPY", "is a NumPy array; make a state dict of it and save that with torch.save"),
    (b"\x1f\x8b", f"is a gzip archive; {_UNPACK}"),
    (b"BZh", f"is a bzip2 archive; {_UNPACK}"),
    (b"\xfd7zXZ\x00", f"is an xz archive; {_UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"is a Zstandard archive; {_UNPACK}"),
    (b"7z\xbc\xaf\x27\x1c", f"is a 7z archive; {_UNPACK}"),
    (b"Rar!\x1a\x07", f"is a RAR archive; {_UNPACK}"),
    (b"\xff\xd8\xff", "is a JPEG picture; give the checkpoint"),
    (b"\x89PNG\r\n\x1a\n", "is a PNG picture; give the checkpoint"),
    (b"%PDF-", "is a PDF document; give the checkpoint"),
)
_HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body|!--)", re.I)
# Tags that may follow ir_version in a ModelProto.
_ONNX_FIELDS = frozenset((b"\x12", b"\x1a", b"\x22", b"\x28", b"\x3a", b"\x42", b"\x72"))


def foreign_kind(path: Path, head: bytes) -> str | None:
    """The kind of a file that is neither safetensors nor a PyTorch checkpoint, and what to do.

    Args:
        path: of the file; its suffix decides where the bytes leave doubt.
        head: its first bytes, at least one.

    Returns:
        The predicate of a sentence, or None for what may be a checkpoint.
    """
    suffix = path.suffix.lower()
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if _HTML.match(head):
        return "is a web page, most often a download that was refused; download the file again"
    if head.startswith(b"PK"):
        return _zip_kind(path)
    if head[257:262] == b"ustar":
        return f"is a tar archive; {_UNPACK}"
    if head[4:8] == b"TFL3":
        return f"is a TensorFlow Lite model; {_EXPORTED}"
    if suffix == ".onnx" or (head[0] == 0x08 and head[1:2] < b"\x40" and head[2:3] in _ONNX_FIELDS):
        return (
            f"is an ONNX model, which cannot be trained; {_EXPORTED}, or give it to `roadshift "
            "adapt` as a black box"
        )
    if suffix in (".h5", ".keras", ".pb", ".index", ".tflite") or ".ckpt.data-" in path.name:
        return "is a TensorFlow file, and only PyTorch weights are read; convert it there first"
    if not head.strip(b"\x00"):
        return "holds zeros where a checkpoint begins, as a broken download does; copy it again"
    if head.lstrip().startswith(b"<?xml"):
        return "is an XML document, most often a server's error; download the file again"
    if b'"weight_map"' in head:
        return (
            "is the index of weights that lie in several files; join them: load each, put all "
            "tensors into one dict and save that with torch.save"
        )
    if _is_text(head):
        start = " ".join(head[:200].decode("utf-8", "replace").split())
        return (
            f"is a text file ({start[:40]!r}...), not a checkpoint; give the file of weights, or "
            "download it again"
        )
    return None


def _is_text(head: bytes) -> bool:
    try:
        text = head[: _HEAD_BYTES - 4].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)


def _zip_kind(path: Path) -> str | None:
    """The kind of a zip archive, unless it is one that torch.save writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return (
            "is damaged: the end of its zip archive is missing, as of a download that broke off; "
            "copy it again"
        )
    parts = [name.split("/") for name in names]
    if any(part[-1] == "constants.pkl" for part in parts) and any("code" in p for p in parts):
        return f"is a TorchScript archive, which holds code, and is refused; {RESAVE}"
    if any(part[1:] == ["data.pkl"] for part in parts):
        return None
    if any(part[-1] == "archive_format" for part in parts):
        return f"is an archive of torch.export, and is refused; {RESAVE}"
    if any(part[-1] in ("model.weights.h5", "metadata.json") for part in parts):
        return "is a Keras model, and only PyTorch weights are read; convert it there first"
    if names and all(name.endswith(".npy") for name in names):
        return "is an archive of NumPy arrays; save them as a state dict with torch.save"
    inside = sorted(name for name in names if Path(name).suffix.lower() in _SUFFIXES)
    if inside:
        return f"is a zip archive; unpack it and give {inside[0]} in it"
    if any(part[-1] == "data.pkl" for part in parts):
        return f"is a checkpoint that was unpacked and zipped anew; {RESAVE}"
    return f"is a zip archive of {len(names)} files and none is a checkpoint; give the checkpoint"


# ---- reading -------------------------------------------------------------------------------------


def _is_safetensors(path: Path, head: bytes) -> bool:
    """A header's length and the start of its JSON; or the suffix, where nothing else is known."""
    if len(head) > 8 and head[8:9] == b"{":
        (length,) = struct.unpack("<Q", head[:8])
        if 2 <= length < 1 << 32:
            return True
    known = head.startswith((b"PK", b"\x80")) or foreign_kind(path, head) is not None
    return path.suffix.lower() == ".safetensors" and not known


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise NetworkError(
            f"{path}: not a readable safetensors file ({error}); copy it again."
        ) from error


def _read_pickle(path: Path) -> Any:
    try:
        # As a stream: of a path, torch takes the suffix for the format.
        with path.open("rb") as file, warnings.catch_warnings(), inert_extras():
            warnings.simplefilter("ignore")  # of what torch deprecates and a user cannot change
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the formats that torch.load knows fail in their own ways
        raise _refusal(path, error) from error


def _refusal(path: Path, error: Exception) -> NetworkError:
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and refused:
        return NetworkError(
            f"{path}: holds more than tensors ({refused[1]}) and is refused, for reading it "
            f"would run code; where you trust it, {RESAVE}."
        )
    if "TorchScript" in str(error):
        return NetworkError(
            f"{path}: is a TorchScript archive, which holds code, and is refused; {RESAVE}."
        )
    return NetworkError(
        f"{path}: damaged, or not a PyTorch checkpoint ({type(error).__name__}); copy it again."
    )
