"""A graph without its weights: a digest that says whether two ONNX models are the same network.

Operators, attributes, wiring, types, shapes and integers that shape the graph count. These do not:

- the values of weights: floating-point constants, and the integers that quantise and dequantise;
- names, the order of nodes, metadata and whatever else no engine computes with;
- whether two nodes take one weight or two equal ones, which are stored once;
- where the argmax is made, as an export chooses it by time: upsampling, bilinear, and argmax in the
  graph are the same as logits for the runtime to do so;
- the exponent ``255 (x / 255)^gamma`` of the pixels, which tone alignment puts in.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

from .structure import Constant, Node, Structure, StructureError, read_structure

_FLOATING = {1, 10, 11, 16, 17, 18, 19, 20}  # TensorProto.DataType: float, halves, double, float8
_FLOAT, _UINT8 = 1, 2
_QUANTISING = {"QuantizeLinear", "DequantizeLinear"}
_SHAPING = {"Resize": {1, 2}, "Upsample": {1}}  # floating-point inputs that decide on shapes
_FULL = struct.pack("<f", 255.0)
_HALF_PIXEL = {b"half_pixel", b"pytorch_half_pixel"}


def skeleton(content: bytes, align_corners: bool | None) -> str:
    """SHA-256, in hexadecimal, of an ONNX model without its weights.

    Args:
        content: the model.
        align_corners: of the upsampling that the runtime does; None where the graph ends in labels.

    Raises:
        StructureError: the model cannot be compared.
    """
    graph = _Graph(read_structure(content))
    try:
        graph.drop_gamma()
        ends = graph.cut_argmax(align_corners)
        lines = [repr(graph.structure.operators), repr(graph.structure.inputs), repr(ends)]
        digest = hashlib.sha256()
        for line in (*lines, *graph.lines()):
            digest.update(line.encode() + b"\n")
    except IndexError as error:
        raise StructureError("has a node that takes or makes too little") from error
    return digest.hexdigest()


class _Graph:
    """A graph whose values are looked up by name."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        if len(structure.inputs) != 1:
            raise StructureError("has more inputs than the image")
        self.roots = [end.name for end in structure.outputs]
        self._made = dict[str, tuple[Node, int]]()
        known = {structure.inputs[0].name, *structure.constants}
        for node in structure.nodes:
            for place, name in enumerate(node.outputs):
                if name in known or name in self._made:
                    raise StructureError(f"makes {name!r} twice")
                if name:
                    self._made[name] = node, place
        self._uses = dict[str, list[tuple[Node, int]]]()
        for node in structure.nodes:
            for place, name in enumerate(node.inputs):
                self._uses.setdefault(name, []).append((node, place))
        if idle := sorted(structure.constants.keys() - self._uses.keys()):
            raise StructureError(f"holds {idle[0]!r}, which no node takes")
        self._dropped = set[int]()

    def drop_gamma(self) -> None:
        """Take ``255 (x / 255)^gamma`` out, right behind the planes of the frame."""
        for node in self.structure.nodes:
            planes = self._before(node, "Mul", 0)
            power = self._maker(planes, "Pow")
            share = self._maker(power.inputs[0], "Div") if power is not None else None
            if power is None or share is None or not self._is_frame(share.inputs[0]):
                continue
            numbers = (share.inputs[1], node.inputs[1])
            alone = all(len(self._uses[one.outputs[0]]) == 1 for one in (share, power))
            if not alone or not all(self._is_255(name) for name in numbers):
                continue
            if not self._is_scalar(power.inputs[1]):
                continue
            self._replace(node.outputs[0], share.inputs[0])
            self._drop(share, power, node)
            return

    def cut_argmax(self, align_corners: bool | None) -> tuple[object, ...]:
        """The ends of the graph, of which upsampling and argmax are the same wherever they are."""
        ends = self.structure.outputs
        if len(ends) != 1:
            return ("as it is", *ends)
        last = self._maker(ends[0].name, "Cast")
        if last is None:
            return ("as it is", *ends)
        if align_corners is not None:
            if ends[0].name != "logits" or last.attributes.get("to", (0, 0, 0))[2] != _FLOAT:
                return ("as it is", *ends)
            self.roots = [last.inputs[0]]
            self._drop(last)
            return ("labels", align_corners)
        argmax = self._maker(last.inputs[0], "ArgMax")
        resize, between = self._resize(argmax) if argmax is not None else (None, [])
        if argmax is None or resize is None or ends[0].name != "labels":
            return ("as it is", *ends)
        set_to = {key: value[2] for key, value in argmax.attributes.items()}
        plain = (set_to.get("axis"), set_to.get("keepdims"), set_to.get("select_last_index", 0))
        how = resize.attributes.get("coordinate_transformation_mode", (0, 0, 0, b"half_pixel"))[3]
        bilinear = resize.attributes.get("mode", (0, 0, 0, b""))[3] == b"linear"
        smooth = resize.attributes.get("antialias", (0, 0, 0))[2] != 0
        to_labels = last.attributes.get("to", (0, 0, 0))[2] == _UINT8
        if plain != (1, 0, 0) or not bilinear or smooth or not to_labels:
            return ("as it is", *ends)
        if how != b"align_corners" and how not in _HALF_PIXEL:
            return ("as it is", *ends)
        self.roots = [resize.inputs[0]]
        self._drop(last, argmax, resize, *between)
        return ("labels", how == b"align_corners")

    def lines(self) -> Iterator[str]:
        """One line a node, in an order that the wiring alone decides, numbered from the outputs."""
        numbers = dict[str, str]({self.structure.inputs[0].name: "image", "": "-"})
        seen = set[int]()
        for node in self._ordered():
            seen.add(id(node))
            taken = [
                numbers[name] if name in numbers else self._constant(name, node, place)
                for place, name in enumerate(node.inputs)
            ]
            for place, name in enumerate(node.outputs):
                numbers[name] = f"n{len(seen)}.{place}" if name else "-"
            made = [bool(name) for name in node.outputs]
            yield repr((len(seen), node.operator, taken, made, sorted(node.attributes.items())))
        yield repr([numbers.get(name) for name in self.roots])
        left = [node for node in self.structure.nodes if id(node) not in seen | self._dropped]
        if left or any(name not in numbers for name in self.roots):
            raise StructureError("has nodes that its output does not need")

    def _ordered(self) -> Iterator[Node]:
        """The nodes that the outputs need, each after those whose values it takes."""
        done, under_way = set[int](), set[int]()
        stack = [self._made[name][0] for name in reversed(self.roots) if name in self._made]
        while stack:
            node = stack[-1]
            if id(node) in done:
                stack.pop()
                continue
            known = (self.structure.constants, self.structure.inputs[0].name, "")
            waiting = []
            for name in node.inputs:
                if name in self._made:
                    waiting.append(self._made[name][0])
                elif name not in known[0] and name not in known[1:]:
                    raise StructureError(f"takes {name!r}, which nothing makes")
            waiting = [one for one in waiting if id(one) not in done]
            if not waiting:
                stack.pop()
                done.add(id(node))
                yield node
            elif id(node) in under_way:
                raise StructureError("runs in a circle")
            else:
                under_way.add(id(node))
                stack.extend(reversed(waiting))

    def _constant(self, name: str, node: Node, place: int) -> str:
        """A constant's type and shape; and its content, unless that is learned.

        Said where it is taken: exporters keep weights of equal values once, so whether two nodes
        take the same one depends on the values.
        """
        constant = self.structure.constants[name]
        if constant.type in _FLOATING:
            fixed = place in _SHAPING.get(node.operator, ())
        else:
            fixed = node.operator not in _QUANTISING
        said = f"w {constant.type} {constant.shape}"
        return f"{said} {_hash(constant)}" if fixed else said

    # --- looking at nodes ---

    def _maker(self, name: str | None, operator: str) -> Node | None:
        found = self._made.get(name) if name else None
        return found[0] if found is not None and found[0].operator == operator else None

    def _before(self, node: Node, operator: str, place: int) -> str | None:
        return node.inputs[place] if node.operator == operator else None

    def _resize(self, argmax: Node) -> tuple[Node | None, list[Node]]:
        """The upsampling before an argmax, and the casts between them."""
        between = list[Node]()
        name = argmax.inputs[0]
        while (cast := self._maker(name, "Cast")) is not None:
            between.append(cast)
            name = cast.inputs[0]
        return self._maker(name, "Resize"), between

    def _is_frame(self, name: str) -> bool:
        planes = self._maker(name, "Transpose")
        cast = self._maker(planes.inputs[0], "Cast") if planes is not None else None
        return cast is not None and cast.inputs[0] == self.structure.inputs[0].name

    def _is_scalar(self, name: str) -> bool:
        constant = self.structure.constants.get(name)
        return constant is not None and constant.type == _FLOAT and constant.shape in ((), (1,))

    def _is_255(self, name: str) -> bool:
        return self._is_scalar(name) and [
            bytes(part) for part in self.structure.constants[name].content
        ] == [_FULL]

    def _replace(self, name: str, by: str) -> None:
        for node in self.structure.nodes:
            node.inputs[:] = [by if one == name else one for one in node.inputs]

    def _drop(self, *nodes: Node) -> None:
        self._dropped.update(id(node) for node in nodes)


def _hash(constant: Constant) -> str:
    digest = hashlib.sha256()
    for part in constant.content:
        digest.update(part)
    return digest.hexdigest()
