"""The network that learns from a black box: its options, resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.bundle import InputSpec, NetworkSpec
from ...runtime.errors import ConfigError, LabelSpaceError, arg, naming
from ...runtime.labels import LabelSpace
from ...runtime.labels import label_space as find_label_space
from ..models.loading import IMAGENET_INPUT, network_spec
from .base import BlackBox


@dataclass(frozen=True)
class Student:
    """Options of the network that learns from a black box; ``None`` is the black box's own value.

    Attributes:
        network: a name or package.module:factory; needed.
        label_space: a built-in label space or a JSON file; of the black box's answers.
        input_size: (width, height) that the student sees.
        initial: weights that it starts from; random otherwise.
        output: path of the logits in what its network returns, where that is not clear.
        arguments: of its network.
    """

    network: str | None = None
    label_space: str | Path | LabelSpace | None = None
    input_size: tuple[int, int] | None = None
    initial: Path | None = None
    output: str | None = None
    arguments: Mapping[str, Any] | None = None

    def space(self) -> LabelSpace | None:
        """The label space that is given.

        Raises:
            LabelSpaceError: there is none of that name.
        """
        given = self.label_space
        if given is None or isinstance(given, LabelSpace):
            return given
        with naming(label_space=LabelSpaceError):
            return find_label_space(given)


def resolve_student(
    student: Student, black_box: BlackBox
) -> tuple[NetworkSpec, LabelSpace, InputSpec]:
    """Resolve a student's options to the network, label space and input of its bundle.

    Raises:
        ConfigError: something is missing, or contradicts the black box.
    """
    if student.network is None:
        raise ConfigError(
            f"A black box needs a student that learns: {arg('student', 'fast_scnn')}, say."
        )
    space, given = black_box.label_space, student.space()
    if given is not None:
        if space is not None and space.classes != given.classes:
            raise ConfigError(
                f"{arg('label_space')} {given.name}: the black box answers in {space.name}, whose "
                "classes are others; leave the option out."
            )
        space = space or given
    if space is None:
        raise ConfigError(
            f"The black box does not say what its classes are: give {arg('label_space')}."
        )
    spec = IMAGENET_INPUT
    if student.input_size is not None:
        width, height = student.input_size
        spec = spec.model_copy(update={"width": width, "height": height})
    elif black_box.input is not None:
        size = {"width": black_box.input.width, "height": black_box.input.height}
        spec = spec.model_copy(update=size)
    network = network_spec(student.network, student.arguments, output=student.output)
    return network, space, spec
