"""A network in a file as a black box: the image that it takes, and the output that answers.

What differs between formats is a `LoadedNetwork`; sizes, layouts, preprocessing and the choice of
an output are the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...runtime.bundle import InputSpec
from ...runtime.errors import ConfigError, EngineError, RoadshiftError, Sentence, arg
from ...runtime.frames.preprocess import fit_frame
from ...runtime.labels import LabelSpace
from ..models.inputs import note_of_unit_range
from ..models.loading import IMAGENET_INPUT
from .base import Answer, BlackBox, BoxWiring, Note
from .reading import AnswerReader

Shape = tuple["int | None", ...]


class TensorInfo(NamedTuple):
    """An input or an output of a network.

    Attributes:
        shape: None for an axis of any length, and for a tensor of any number of axes.
        dtype: None where NumPy has none for it.
        scale, zero_point: the number that an integer q stands for is scale (q - zero_point); a
            scale of 0: itself.
    """

    name: str
    shape: Shape | None
    dtype: np.dtype[Any] | None
    scale: float = 0.0
    zero_point: int = 0

    def __str__(self) -> str:
        axes = ", ".join("?" if axis is None else str(axis) for axis in self.shape or ())
        return f"{self.name!r} {self.dtype or 'of no numbers'} ({axes if self.shape else '...'})"


class LoadedNetwork(Protocol):
    """A network in memory, ready to run on a CPU."""

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        """Its inputs, in their order."""
        ...

    @property
    def outputs(self) -> Sequence[TensorInfo]:
        """Its outputs, in their order."""
        ...

    def run(self, image: NDArray[np.generic], output: int) -> object:
        """Output number ``output`` for the one input; any exception is reported."""
        ...


@dataclass(frozen=True)
class ImageInput:
    """The one input of a network, which takes an image.

    Attributes:
        batch: images that it takes at a time; None: it has no axis for them.
        width, height: in pixels; None: any.
        spec: preprocessing, of which the size does not count; None: it takes raw RGB pixels.
        bgr: raw pixels are wanted as BGR.
    """

    tensor: TensorInfo
    channels_last: bool
    batch: int | None
    width: int | None
    height: int | None
    spec: InputSpec | None
    bgr: bool

    def prepared(self, image: NDArray[np.uint8]) -> NDArray[np.generic]:
        """The input for a uint8 RGB image (H, W, 3)."""
        height, width = image.shape[:2]
        fitted = fit_frame(image, self.width or width, self.height or height)
        seen: NDArray[np.generic] = fitted[..., ::-1] if self.bgr else fitted
        if self.spec is not None:
            mean, std = (np.asarray(v, np.float32) for v in (self.spec.mean, self.spec.std))
            seen = (seen.astype(np.float32) - mean) / std
        seen = quantised(seen, self.tensor)
        if not self.channels_last:
            seen = seen.transpose(2, 0, 1)
        if self.batch is not None:
            seen = np.repeat(seen[None], self.batch, axis=0)
        return np.ascontiguousarray(seen)


def quantised(numbers: NDArray[np.generic], tensor: TensorInfo) -> NDArray[np.generic]:
    """Numbers as a tensor holds them, of its type."""
    assert tensor.dtype is not None
    if tensor.scale == 0:
        return numbers.astype(tensor.dtype, copy=False)
    held = np.round(numbers.astype(np.float32) / tensor.scale) + tensor.zero_point
    limits = np.iinfo(tensor.dtype)
    return held.clip(limits.min, limits.max).astype(tensor.dtype)


def dequantised(numbers: object, tensor: TensorInfo) -> object:
    """The numbers that a tensor's integers stand for, float32; anything else as it is."""
    if tensor.scale == 0 or not isinstance(numbers, np.ndarray):
        return numbers
    return (numbers.astype(np.float32) - tensor.zero_point) * np.float32(tensor.scale)


def network_black_box(
    load: Callable[[], LoadedNetwork],
    file: Path,
    identity: str,
    wiring: BoxWiring,
    space: LabelSpace | None,
    note: Note,
) -> BlackBox:
    """A network that says nothing of its classes and its preprocessing, as a black box.

    Args:
        load: loads it, now and after `BlackBox.close`.
        space: of its answers.

    Raises:
        ConfigError: the label space is not given, or contradicts it; or its output is not clear.
        EngineError: it takes no image.
    """
    network = load()
    if space is None:
        raise ConfigError(
            f"{file}: does not say what its classes are; give {arg('label_space')} (its "
            f"outputs are {listed(network.outputs)})."
        )
    image = image_input(network.inputs, file, wiring)
    number = _output(network.outputs, file, wiring.output, space.num_classes)
    _check_channels(network.outputs[number], file, space, image.channels_last)
    assumed = image.spec is not None and None in (wiring.mean, wiring.std)
    note_of_unit_range(wiring.mean, wiring.std, note)
    note(Sentence(f"{file}: {_described(image, assumed)}"))
    size = image.width, image.height
    spec = None
    if size[0] is not None and size[1] is not None:
        spec = (image.spec or IMAGENET_INPUT).model_copy(
            update={"width": size[0], "height": size[1]}
        )
    reader = AnswerReader(
        space.num_classes,
        f"{file}: output {network.outputs[number].name!r}",
        note,
        holds=wiring.answers,
        channels_last=image.channels_last,
        step=network.outputs[number].scale,
    )
    asked = AskedNetwork(file, network, load, image, number, reader)
    return BlackBox(asked.answer, identity, input=spec, close=asked.close)


class AskedNetwork:
    """A network that answers about images, and is loaded again where it was let go of.

    Args:
        file: of the network, for sentences.
        load: loads it again.
        number: of the output that answers, read by ``reader``.
        advice: ends a sentence on a network that fails.
    """

    def __init__(
        self,
        file: Path,
        network: LoadedNetwork,
        load: Callable[[], LoadedNetwork],
        image: ImageInput,
        number: int,
        reader: AnswerReader,
        advice: str | None = None,
    ) -> None:
        self._file, self._load, self._image = file, load, image
        self._number, self._reader, self._advice = number, reader, advice
        self._network: LoadedNetwork | None = network

    def close(self) -> None:
        """Let go of the network."""
        self._network = None

    def answer(self, name: str, image: NDArray[np.uint8]) -> Answer:
        """See `BlackBox`.

        Raises:
            EngineError: it fails, or gives nothing that is an answer.
            LabelError: its numbers are not finite, or not what the earlier ones were.
        """
        network = self._network = self._network or self._load()
        try:
            found = network.run(self._image.prepared(image), self._number)
        except RoadshiftError:
            raise
        except Exception as error:  # each runtime has a family of its own
            raise EngineError(
                f"{self._file}: fails while running ({reason(error)}) on frame {name}; "
                f"{self._advice or self._other_sides(image)}."
            ) from error
        return self._reader.read(dequantised(found, network.outputs[self._number]), name)

    def _other_sides(self, image: NDArray[np.uint8]) -> str:
        if self._image.width is None or self._image.height is None:
            return (
                f"where it does not take {image.shape[1]}x{image.shape[0]}, give another "
                f"{arg('input_size')}"
            )
        return "mend the file"


def reason(error: Exception) -> str:
    """The first line of an exception, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def listed(tensors: Sequence[TensorInfo]) -> str:
    """Tensors by name, type and shape, for a sentence."""
    return ", ".join(map(str, tensors)) or "none"


def image_input(inputs: Sequence[TensorInfo], file: Path, wiring: BoxWiring) -> ImageInput:
    """The one input, and the preprocessing that goes before it.

    Raises:
        EngineError: there are several, or it takes no image of three channels.
        ConfigError: raw pixels are not normalised.
    """
    if len(inputs) != 1:
        raise EngineError(
            f"{file}: has the inputs {listed(inputs)}, and a black box is given an image alone; "
            "wrap it in a Python function and give that as package.module:function."
        )
    (tensor,) = inputs
    axes = _image_axes(tensor.shape)
    if axes is None or tensor.dtype is None or not _holds_pixels(tensor):
        raise EngineError(
            f"{file}: takes {tensor}, and no image (1, 3, h, w) or (1, h, w, 3); wrap it in a "
            "Python function and give that as package.module:function."
        )
    raw = tensor.scale == 0 and np.issubdtype(tensor.dtype, np.integer)
    if raw:
        normalising = [name for name in ("mean", "std") if getattr(wiring, name) is not None]
        if normalising:
            raise ConfigError(
                f"{arg(normalising[0])}: {file} takes {tensor.dtype} pixels, which it normalises "
                "itself; leave it out."
            )
    given = {name: getattr(wiring, name) for name in ("colour", "mean", "std")}
    spec = IMAGENET_INPUT.model_copy(update={k: v for k, v in given.items() if v is not None})
    channels_last, batch, height, width = axes
    seen = None if raw else spec
    return ImageInput(tensor, channels_last, batch, width, height, seen, spec.colour == "bgr")


def _described(image: ImageInput, assumed: bool) -> str:
    """An input and its preprocessing, for a note."""
    free = image.width is None and image.height is None
    sides = "x".join("?" if side is None else str(side) for side in (image.width, image.height))
    sides = "of any size" if free else sides
    colour = "BGR" if image.bgr else "RGB"
    if image.spec is None:
        return f"takes {colour} pixels as they are, {sides}"
    numbers = [",".join(f"{x:g}" for x in t) for t in (image.spec.mean, image.spec.std)]
    said = f"takes {colour} pixels, {sides}, less {numbers[0]}, divided by {numbers[1]}"
    if not assumed:
        return said
    return (
        f"{said}: where that is not how it was trained, give {arg('mean')}, {arg('std')} and "
        f"{arg('colour')} (for [0, 1]: 0,0,0 and 255,255,255)"
    )


def _holds_pixels(tensor: TensorInfo) -> bool:
    """Tell whether numbers of the tensor's type are pixels, normalised or raw."""
    assert tensor.dtype is not None
    if np.issubdtype(tensor.dtype, np.floating) or tensor.scale:
        return True
    return np.issubdtype(tensor.dtype, np.integer) and np.iinfo(tensor.dtype).max >= 255


def _image_axes(shape: Shape | None) -> tuple[bool, int | None, int | None, int | None] | None:
    """(channels last, images at a time, height, width) of an input; None where it is no image.

    A free number of images is 1. Where no axis says that it has three channels, the first does.
    """
    if shape is None:
        return False, 1, None, None
    if len(shape) not in (3, 4):
        return None
    batch = None if len(shape) == 3 else shape[0] or 1
    first, second, third = shape[-3:]
    if first != 3 and (third == 3 or (first is not None and third is None)):
        return (True, batch, first, second) if third == 3 else None
    if first not in (3, None):
        return None
    return False, batch, second, third


def _output(
    outputs: Sequence[TensorInfo], file: Path, wanted: str | int | None, num_classes: int
) -> int:
    """The number of the output that answers.

    Raises:
        ConfigError: there is none of that name or number, or none is given and several may be it.
    """
    if wanted is not None:
        names = [output.name for output in outputs]
        if str(wanted) in names:
            return names.index(str(wanted))
        if str(wanted).isdecimal() and int(wanted) < len(outputs):
            return int(wanted)
        raise ConfigError(
            f"{arg('output')} {wanted!r}: {file} has the outputs {listed(outputs)}; give a name "
            "or a number from 0."
        )
    likely = [i for i, output in enumerate(outputs) if _may_answer(output, num_classes)]
    if len(outputs) == 1:
        return 0
    if len(likely) == 1:
        return likely[0]
    raise ConfigError(
        f"{file}: has the outputs {listed(outputs)}; say with {arg('output')} which of them "
        "answers, by name or by number from 0."
    )


def _may_answer(output: TensorInfo, num_classes: int) -> bool:
    """Tell whether an output may be logits, probabilities or classes of every pixel."""
    if output.dtype is None or (output.shape is not None and len(output.shape) not in (2, 3, 4)):
        return False
    if not np.issubdtype(output.dtype, np.floating):
        return True
    return output.shape is None or not _wrong_channels(output.shape, num_classes)


def _wrong_channels(shape: Shape, num_classes: int) -> bool:
    """Tell whether neither the first nor the last axis of an image can be that of the classes.

    Where the first alone has a length, it is that of the classes, and the others are the sides.
    """
    if len(shape) < 3:
        return False
    wanted = {num_classes, None} | ({1} if num_classes == 2 else set())
    first, second, third = shape[-3:]
    if first is not None and second is None and third is None:
        return first not in wanted
    return not {first, third} & wanted


def _check_channels(output: TensorInfo, file: Path, space: LabelSpace, channels_last: bool) -> None:
    """Refuse numbers over more or fewer classes than the label space has.

    Raises:
        ConfigError: it has, as far as the shape is known before an answer.
    """
    if output.dtype is None or output.shape is None:
        return
    classes = not np.issubdtype(output.dtype, np.floating) and not output.scale
    if classes or len(output.shape) < 3 or not _wrong_channels(output.shape, space.num_classes):
        return
    ends = (output.shape[-1], output.shape[-3]) if channels_last else output.shape[-3::2]
    known = [axis for axis in ends if axis is not None]
    channels = min(known)
    if channels == 1 and len(output.shape) == 3:
        return  # of classes, as floating-point numbers
    raise ConfigError(
        f"{file}: its output {output} has {channels} channels, and {space.name} has "
        f"{space.num_classes} classes; give the {arg('label_space')} of its {channels} classes"
        f"{', of which a single channel has two' if channels == 1 else ''}."
    )
