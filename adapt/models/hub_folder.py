"""Folders as the Hugging Face hub lays them out: settings and weights, never code.

config.json                                 the architecture, and the names of the classes
preprocessor_config.json                    the input
model.safetensors, or pytorch_model.bin     the weights, or the index of several such files
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...runtime.errors import NetworkError
from ...runtime.strict_json import JsonError, read_json
from ...runtime.words import shortened
from .importing import read_checkpoint

SCHEME = "hf:"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INPUT_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class HubFolder:
    """A model as the hub lays it out.

    Attributes:
        path: the folder.
        config: of ``config.json``.
        preprocessing: of ``preprocessor_config.json``; empty where there is none.
        preprocessing_file: its name, or "".
        class_names: in the order of the outputs, by ``id2label``; empty where there are none.
    """

    path: Path
    config: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    preprocessing_file: str
    class_names: tuple[str, ...]

    @property
    def model_type(self) -> str:
        """The architecture, as ``transformers`` names it."""
        return str(self.config["model_type"])

    @property
    def config_file(self) -> str:
        """Path of ``config.json``, for messages."""
        return str(self.path / "config.json")


def is_hub_folder(source: Path | str) -> bool:
    """True of ``hf:FOLDER``."""
    return str(source).startswith(SCHEME)


def read_hub_folder(source: Path | str) -> HubFolder:
    """The settings of the model in ``hf:FOLDER``.

    Raises:
        NetworkError: there is no such folder, it holds no model, or one that needs its own code.
    """
    text = str(source).removeprefix(SCHEME)
    path = Path(text)
    if not path.is_dir():
        raise NetworkError(
            f"{shortened(str(source))}: there is no such folder, and nothing is downloaded here; "
            f"fetch it first, with `hf download {shortened(text)} --local-dir FOLDER`, and give "
            f"{SCHEME}FOLDER."
        )
    config = _document(path / "config.json")
    if config is None:
        raise NetworkError(
            f"{path}: holds no config.json, as a folder of the hub does; give the folder that "
            "does, or the file of weights with its network."
        )
    if not isinstance(config.get("model_type"), str):
        raise NetworkError(
            f"{path / 'config.json'}: names no model_type; give the file of weights with its "
            "network."
        )
    name, preprocessing = "", None
    for name in _INPUT_FILES:
        preprocessing = _document(path / name)
        if preprocessing is not None:
            break
    if preprocessing is None:
        name, preprocessing = "", {}
    nested = preprocessing.get("image_processor")
    return HubFolder(
        path,
        config,
        nested if isinstance(nested, Mapping) else preprocessing,
        name,
        _class_names(config, path / "config.json"),
    )


def read_hub_weights(folder: HubFolder) -> tuple[dict[str, Tensor], str]:
    """Every tensor of the folder's weights by name, and the file or index that they come from.

    Raises:
        NetworkError: there are none, a file of the index is missing or lies elsewhere, or two hold
            one tensor.
    """
    for name in _WEIGHTS:
        index = folder.path / f"{name}.index.json"
        if (folder.path / name).is_file():
            return read_checkpoint(folder.path / name), str(folder.path / name)
        if index.is_file():
            return _of_shards(index), str(index)
    raise NetworkError(
        f"{folder.path}: holds none of {', '.join(_WEIGHTS)} and no index of several files; fetch "
        "the whole folder."
    )


def _of_shards(index: Path) -> dict[str, Tensor]:
    places = (_document(index) or {}).get("weight_map")
    if not isinstance(places, Mapping) or not all(isinstance(f, str) for f in places.values()):
        raise NetworkError(f"{index}: has no weight_map of names to files; fetch it again.")
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        if file != Path(file).name or not (index.parent / file).is_file():
            raise NetworkError(
                f"{index}: names the file {shortened(file)!r}, which does not lie beside it; fetch "
                "the whole folder."
            )
        part = read_checkpoint(index.parent / file)
        twice = next((name for name in part if name in tensors), None)
        if twice is not None:
            raise NetworkError(
                f"{index.parent / file}: holds {twice}, which another file of {index.name} holds "
                "too; fetch the whole folder."
            )
        tensors.update(part)
    missing = [name for name in places if name not in tensors]
    if missing:
        raise NetworkError(
            f"{index}: {len(missing)} of its tensors are in none of its files ({missing[0]}, ...); "
            "fetch the whole folder."
        )
    return tensors


def _document(path: Path) -> dict[str, Any] | None:
    """The object of a JSON file, or ``None`` where there is no such file."""
    if not path.exists():
        return None
    try:
        content = read_json(path)
    except (OSError, JsonError) as error:
        raise NetworkError(f"{path}: cannot be read ({error}); fetch it again.") from error
    if not isinstance(content, dict):
        raise NetworkError(f"{path}: is no JSON object; fetch it again.")
    return content


def _class_names(config: Mapping[str, Any], where: Path) -> tuple[str, ...]:
    labels = config.get("id2label")
    if not labels:
        return ()
    problem = f"{where}: its id2label is no table of the classes 0, 1, ... by name"
    try:
        named = {int(index): name for index, name in labels.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise NetworkError(f"{problem}; mend it.") from error
    if sorted(named) != list(range(len(named))) or not all(
        isinstance(name, str) and name for name in named.values()
    ):
        raise NetworkError(f"{problem}; mend it.")
    return tuple(named[index] for index in range(len(named)))
