"""The nodes, constants and ends of an ONNX model's bytes, read strictly and without ``onnx``.

For comparing graphs: whatever two readers could take for different graphs, such as a field that is
there twice, is refused, and so is what Roadshift's exports never hold (subgraphs, functions).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .protobuf import fields, varint

Value = int | memoryview


class StructureError(ValueError):
    """A model that cannot be compared; the message is a phrase that follows its name."""


@dataclass
class Node:
    """An operator with the names of what it takes and makes; ``attributes`` are hashable values."""

    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, tuple[object, ...]]


@dataclass(frozen=True)
class Constant:
    """A tensor of the graph; ``type`` is a `TensorProto.DataType`, ``content`` as it is stored."""

    type: int
    shape: tuple[int, ...]
    content: tuple[bytes | memoryview, ...] = field(repr=False)


@dataclass(frozen=True)
class End:
    """An input or output of the graph; ``shape`` has sizes, or the names of open ones."""

    name: str
    type: int
    shape: tuple[int | bytes, ...]


@dataclass
class Structure:
    """A graph, and the versions of the operator sets that it uses."""

    operators: list[tuple[str, int]]
    nodes: list[Node]
    constants: dict[str, Constant]
    inputs: list[End]
    outputs: list[End]


def read_structure(content: bytes) -> Structure:
    """The structure of a model.

    Raises:
        StructureError: it is damaged, ambiguous, or holds what is never compared.
    """
    try:
        model = _grouped(memoryview(content))
        _refuse(model, {20: "training graphs", 25: "functions"})
        graph = _grouped(_message(_once(model, 7)))
        _refuse(graph, {15: "sparse weights"})
        constants = dict[str, Constant]()
        for part in graph.get(5, ()):
            name, constant = _constant(_message(part))
            if name in constants:
                raise StructureError(f"has two weights of the name {name!r}")
            constants[name] = constant
        return Structure(
            sorted(_operators(part) for part in model.get(8, ())),
            [_node(_message(part)) for part in graph.get(1, ())],
            constants,
            [_end(_message(part)) for part in graph.get(11, ())],
            [_end(_message(part)) for part in graph.get(12, ())],
        )
    except StructureError:
        raise
    except (IndexError, ValueError) as error:
        raise StructureError("is damaged, or no ONNX model") from error


def _node(part: memoryview) -> Node:
    found = _grouped(part)
    _refuse(found, {8: "overloaded functions"})
    attributes = dict[str, tuple[object, ...]]()
    for one in found.get(5, ()):
        name, value = _attribute(_message(one))
        if name in attributes:
            raise StructureError(f"has a node with two attributes {name!r}")
        attributes[name] = value
    operator, domain = _text(_once(found, 4)), _text(_once(found, 7, b""))
    return Node(
        f"{domain}:{operator}" if domain not in ("", "ai.onnx") else operator,
        [_text(one) for one in found.get(1, ())],
        [_text(one) for one in found.get(2, ())],
        attributes,
    )


def _attribute(part: memoryview) -> tuple[str, tuple[object, ...]]:
    found = _grouped(part)
    odd = {6: "subgraphs", 11: "subgraphs", 10: "lists of tensors", 14: "types", 15: "types"}
    _refuse(found, {**odd, 21: "functions", 22: "sparse weights", 23: "sparse weights"})
    tensor = _constant(_message(_once(found, 5)))[1] if 5 in found else None
    stored = (tensor.type, tensor.shape, _joined(tensor.content)) if tensor is not None else None
    value = (
        _once(found, 20, 0),
        _plain(_once(found, 2, b"")),
        _once(found, 3, 0),
        _plain(_once(found, 4, b"")),
        stored,
        _joined(_message(one) for one in found.get(7, ())),
        _numbers(found.get(8, ())),
        tuple(_plain(one) for one in found.get(9, ())),
    )
    return _text(_once(found, 1)), value


def _constant(part: memoryview) -> tuple[str, Constant]:
    found = _grouped(part)
    _refuse(found, {3: "segmented weights", 13: "weights in another file"})
    kind = _once(found, 2)
    if not isinstance(kind, int):
        raise StructureError("is damaged, or no ONNX model")
    numbers = (5, 7, 11)  # int32_data, int64_data and uint64_data: each packed, or one by one
    content: list[bytes | memoryview] = [
        repr(_numbers(found[key])).encode() for key in numbers if key in found
    ]
    content += [_message(one) for key in (4, 6, 9, 10) for one in found.get(key, ())]
    name = _text(_once(found, 8, b""))
    return name, Constant(kind, _numbers(found.get(1, ())), tuple(content))


def _end(part: memoryview) -> End:
    found = _grouped(part)
    kind = _grouped(_message(_once(found, 2)))
    if set(kind) != {1}:
        raise StructureError("has an input or output that is no tensor")
    tensor = _grouped(_message(_once(kind, 1)))
    sizes = list[int | bytes]()
    for dimension in _grouped(_message(_once(tensor, 2))).get(1, ()):
        size = _grouped(_message(dimension))
        known = _once(size, 1) if 1 in size else _plain(_once(size, 2, b""))
        sizes.append(known if isinstance(known, int) else bytes(known))
    element = _once(tensor, 1)
    return End(_text(_once(found, 1)), element if isinstance(element, int) else 0, tuple(sizes))


def _operators(part: Value) -> tuple[str, int]:
    found = _grouped(_message(part))
    version = _once(found, 2, 0)
    return _text(_once(found, 1, b"")), version if isinstance(version, int) else 0


def _grouped(part: memoryview) -> dict[int, list[Value]]:
    found = dict[int, list[Value]]()
    for number, value in fields(part):
        found.setdefault(number, []).append(value)
    return found


def _once(
    found: dict[int, list[Value]], number: int, default: Value | bytes | None = None
) -> Value:
    values = found.get(number, [])
    if len(values) > 1:
        raise StructureError("holds a field twice")
    if values:
        return values[0]
    if default is None:
        raise StructureError("is damaged, or no ONNX model")
    return memoryview(default) if isinstance(default, bytes) else default


def _refuse(found: dict[int, list[Value]], odd: dict[int, str]) -> None:
    for number, what in odd.items():
        if any(not isinstance(value, memoryview) or len(value) for value in found.get(number, ())):
            raise StructureError(f"holds {what}")


def _message(value: Value) -> memoryview:
    if not isinstance(value, memoryview):
        raise StructureError("is damaged, or no ONNX model")
    return value


def _text(value: Value) -> str:
    return bytes(_message(value)).decode()


def _plain(value: Value) -> bytes:
    return bytes(_message(value))


def _joined(parts: Iterable[bytes | memoryview]) -> bytes:
    return b"".join(parts)


def _numbers(values: Iterable[Value]) -> tuple[int, ...]:
    return tuple(number for value in values for number in _unpacked(value))


def _unpacked(value: Value) -> Iterator[int]:
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = varint(value, at)
        yield number
