"""Maps in what a user's network returns, by where they lie in it.

A path names a place: "" is the answer itself, "1" an index, "main" a key or an attribute, and
"0.out" the one below the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

ESTABLISHED = ("out", "logits")  # keys that say by themselves which map is the logits
FEATURES = "features"


def maps_in(answer: Any) -> dict[str, Tensor]:
    """Every floating-point map (B, C, h, w) in ``answer``, by its path, each tensor once.

    Looked into are lists, tuples, mappings, dataclasses, and objects with attributes.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for path, tensor in _walk(answer, (), set()):
        if tensor.ndim == 4 and tensor.is_floating_point() and id(tensor) not in seen:
            seen.add(id(tensor))
            found[".".join(path)] = tensor
    return found


def at(answer: Any, path: str) -> Any:
    """The value that lies at ``path``, or ``None``."""
    if path == "":
        return answer
    parts = path.split(".")
    for used in range(1, len(parts) + 1):  # a key may hold a point itself
        below = _child(answer, ".".join(parts[:used]))
        if below is not None:
            found = at(below, ".".join(parts[used:]))
            if found is not None:
                return found
    return None


def shown(path: str) -> str:
    """The path as a message shows it."""
    return path or "the answer itself"


def described(answer: Any) -> str:
    """A few words on an answer without maps of the right kind: its type, keys or shape."""
    if isinstance(answer, Tensor):
        return f"a tensor of shape {tuple(answer.shape)}"
    if isinstance(answer, Mapping):
        return f"a mapping with {sorted(map(str, answer))}"
    return f"a {type(answer).__name__}"


def listed(answer: Any) -> str:
    """The maps in an answer with their shapes, or a few words on one without."""
    found = [f"{shown(path)} {tuple(made.shape)}" for path, made in maps_in(answer).items()]
    return ", ".join(found) or described(answer)


def _walk(
    answer: Any, path: tuple[str, ...], above: set[int]
) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(answer, Tensor):
        yield path, answer
        return
    if id(answer) in above:
        return  # it holds itself
    for name, child in _children(answer):
        yield from _walk(child, (*path, name), above | {id(answer)})


def _children(answer: Any) -> list[tuple[str, Any]]:
    if isinstance(answer, Mapping):
        # the established keys first: the same tensor under another key is then theirs
        items = [(str(key), value) for key, value in answer.items()]
        return sorted(items, key=lambda item: item[0] not in ESTABLISHED)
    if isinstance(answer, tuple) and hasattr(answer, "_fields"):
        return list(zip(answer._fields, answer, strict=True))
    if isinstance(answer, (list, tuple)):
        return [(str(i), value) for i, value in enumerate(answer)]
    if is_dataclass(answer) and not isinstance(answer, type):
        return [(field.name, getattr(answer, field.name, None)) for field in fields(answer)]
    if isinstance(answer, (nn.Module, type)) or callable(answer):
        return []
    return list(getattr(answer, "__dict__", {}).items())


def _child(answer: Any, name: str) -> Any:
    if isinstance(answer, Mapping):
        if name in answer:
            return answer[name]
        return next((value for key, value in answer.items() if str(key) == name), None)
    if isinstance(answer, (list, tuple)) and name.isdecimal():
        places = {str(place): place for place in range(len(answer))}
        return answer[places[name]] if name in places else None
    return getattr(answer, name, None)
