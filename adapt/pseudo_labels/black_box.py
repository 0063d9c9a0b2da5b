"""A source model that only answers: a folder of predictions, an ONNX file, or a Python function.

Nothing of it but its answers is used: no weights, no gradient. What it says about the target frames
is asked for once and kept in the run's folder.

    folder      NAME.npz with one array (K, h, w) of probabilities, or NAME.png with class indices
                (255: none), for every frame NAME; of any size, over the whole frame
    .onnx       exported by `roadshift export`; with --logits its answers are soft, else labels
    bundle      the ONNX artefact of it
    module:fn   fn(image uint8 RGB (H, W, 3)) -> (K, h, w) probabilities, or (h, w) class indices
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.bundle import InputSpec, NetworkSpec, open_bundle
from ...runtime.engines.onnx.graph import OnnxModel, model_problem
from ...runtime.engines.onnx.session import cpu_session, reason, run_interruptible
from ...runtime.errors import (
    BundleError,
    ConfigError,
    EngineError,
    FrameError,
    LabelError,
    LabelSpaceError,
    arg,
)
from ...runtime.frames.preprocess import fit_frame
from ...runtime.labels import LabelSpace
from ...runtime.labels import label_space as find_label_space
from ...runtime.pictures.png import decode_label_png, read_png
from ...runtime.probes.cores import available_cores
from ...runtime.regular_files import read_regular_file
from ...runtime.strict_json import parse_json
from ..models.loading import IMAGENET_INPUT, network_spec
from ..networks import import_callable

Answer = NDArray[Any]
NO_CLASS = 255
LARGEST_ONNX = 2 << 30  # bytes; protobuf holds no more
TOLERANCE = 1e-2  # of the sum of a pixel's probabilities; they may have been stored in float16


@dataclass(frozen=True)
class BlackBox:
    """A source model as its answers.

    Attributes:
        answer: ``answer(name, image)``, for a frame's name and uint8 RGB (H, W, 3): float32
            probabilities (K, h, w), or uint8 class indices (h, w); checked by `checked_answer`.
        identity: changes when the model does, as far as can be told: a bundle's hash, SHA-256 of
            the ONNX file or of the folder's listing, or the function's name.
        label_space: of its answers, where it says so itself.
        input: what it was trained to see, where it says so itself.
        looks: whether it answers to any image, and not only by the frame's name.
    """

    answer: Callable[[str, NDArray[np.uint8]], Answer]
    identity: str
    label_space: LabelSpace | None = None
    input: InputSpec | None = None
    looks: bool = True


def open_black_box(source: str) -> BlackBox:
    """Open the black box that ``source`` names, see the top of this module.

    Raises:
        ConfigError: it is none of these, or an empty folder.
        BundleError, EngineError: it is damaged, or holds no ONNX that `roadshift export` made.
        NetworkError: there is no such Python function.
    """
    path = Path(source)
    if path.suffix == ".onnx":
        try:
            content = read_regular_file(path, LARGEST_ONNX)
        except OSError as error:
            raise EngineError(f"{path}: cannot be read ({error.strerror or error}).") from error
        return _onnx(content, path)
    if (path / "manifest.json").exists():
        bundle = open_bundle(path)
        artefact = bundle.artefact(kind="onnx")
        if artefact is None:
            raise BundleError(
                f"{path}: a black box answers through its ONNX artefact, and the bundle has none; "
                "run `roadshift export` on it first "
                f"({arg('logits', True)} makes its answers soft)."
            )
        return replace(_onnx(bundle.content(artefact), bundle.file(artefact)), identity=bundle.hash)
    if path.is_dir():
        return _folder(path)
    if ":" in source:
        return _function(source)
    problem = "is not a black box" if path.exists() else "does not exist"
    raise ConfigError(
        f"{source}: {problem}; give a folder of predictions, an .onnx file, a bundle with an ONNX "
        "artefact, or package.module:function."
    )


@dataclass(frozen=True)
class Student:
    """Options of the network that learns from a black box; ``None`` is the black box's own value.

    Attributes:
        network: a name or package.module:factory; needed.
        label_space: a built-in label space or a JSON file; of the black box's answers.
        input_size: (width, height) that the student sees.
        initial: weights that it starts from; random otherwise.
        output: path of the logits in what its network returns, where that is not clear.
    """

    network: str | None = None
    label_space: str | None = None
    input_size: tuple[int, int] | None = None
    initial: Path | None = None
    output: str | None = None


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
    space = black_box.label_space
    if student.label_space is not None:
        given = find_label_space(student.label_space)
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
    return network_spec(student.network, output=student.output), space, spec


def checked_answer(answer: Answer, num_classes: int, where: str) -> Answer:
    """``answer`` as float32 (K, h, w) that sums to 1, or as uint8 (h, w).

    Raises:
        LabelError: it is neither, with what is wrong and ``where``.
    """
    hard = answer.ndim == 2 and np.issubdtype(answer.dtype, np.integer)
    soft = answer.ndim == 3 and np.issubdtype(answer.dtype, np.floating)
    if not (hard or (soft and len(answer) == num_classes)) or answer.size == 0:
        raise LabelError(
            f"{where}: is {answer.dtype} {answer.shape}; give floating-point probabilities "
            f"({num_classes}, h, w), or integer class indices (h, w)."
        )
    return _checked_classes(answer, num_classes, where) if hard else _checked_soft(answer, where)


def _checked_classes(classes: Answer, num_classes: int, where: str) -> Answer:
    wrong = np.unique(classes[(classes < 0) | ((classes >= num_classes) & (classes != NO_CLASS))])
    if len(wrong):
        raise LabelError(
            f"{where}: has the classes {wrong[:5].tolist()}, and the label space has 0 to "
            f"{num_classes - 1}, with {NO_CLASS} for none; give the label space of the predictions."
        )
    return classes.astype(np.uint8)


def _checked_soft(answer: Answer, where: str) -> Answer:
    with np.errstate(all="ignore"):  # what overflows or is not finite is refused below
        p = answer.astype(np.float32)
        total = p.sum(axis=0)
        good = np.isfinite(total).all() and p.min() >= 0 and np.abs(total - 1).max() <= TOLERANCE
    if not good:
        raise LabelError(
            f"{where}: its numbers are no probabilities (from {p.min():.3g} to {p.max():.3g}, sums "
            f"from {total.min():.3g} to {total.max():.3g}); apply a softmax over the classes."
        )
    return np.asarray(p / total, np.float32)


def _folder(folder: Path) -> BlackBox:
    files = sorted(p for p in folder.iterdir() if p.suffix in (".npz", ".png") and p.is_file())
    if not files:
        raise ConfigError(f"{folder}: holds no predictions, neither NAME.npz nor NAME.png.")
    listing = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    identity = hashlib.sha256(json.dumps(listing).encode()).hexdigest()

    def answer(name: str, _: NDArray[np.uint8]) -> Answer:
        soft, hard = folder / f"{name}.npz", folder / f"{name}.png"
        if soft.exists():
            return _read_npz(soft)
        if hard.exists():
            return _read_classes(hard)
        raise FrameError(
            f"{folder}: has neither {soft.name} nor {hard.name}; every target frame needs a "
            "prediction of its name."
        )

    return BlackBox(answer, identity, looks=False)


def _read_npz(path: Path) -> Answer:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays.files
            array = np.asarray(arrays[names[0]]) if len(names) == 1 else None
    except Exception as error:  # numpy, zipfile and zlib have families of their own
        raise LabelError(
            f"{path}: cannot be read as an .npz of plain numbers ({error}); write it again with "
            "numpy.savez_compressed(path, probabilities)."
        ) from error
    if array is None:
        raise LabelError(f"{path}: holds {len(names)} arrays; store one, (K, h, w).")
    return array


def _read_classes(path: Path) -> Answer:
    png = read_png(path)
    if png.is_colour:
        raise LabelError(
            f"{path}: is a colour picture; class predictions are PNGs of one channel that holds "
            "class indices, as `roadshift run` writes them."
        )
    return decode_label_png(png, path)


def _onnx(data: bytes, file: Path) -> BlackBox:
    if problem := model_problem(data):
        raise EngineError(f"{file}: is not a model that ONNX Runtime can run ({problem}).")
    session = cpu_session(OnnxModel(data, file), available_cores())
    described = session.get_modelmeta().custom_metadata_map
    try:
        space = LabelSpace.from_dict(parse_json(described["roadshift.label_space"]))
        spec = InputSpec.model_validate(parse_json(described["roadshift.input"]))
    except KeyError as error:
        raise EngineError(
            f"{file}: was not exported by roadshift, so what it takes and gives is not known; wrap "
            "it in a Python function and give that as package.module:function."
        ) from error
    except (LabelSpaceError, ValueError) as error:
        raise EngineError(
            f"{file}: what it says of its input and label space is malformed ({error}); export it "
            "again."
        ) from error
    soft = "logits" in [output.name for output in session.get_outputs()]

    def answer(name: str, image: NDArray[np.uint8]) -> Answer:
        fitted = fit_frame(image, spec.width, spec.height)[None]
        try:
            (found,) = run_interruptible(
                session, ["logits" if soft else "labels"], {"image": fitted}
            )
        except Exception as error:  # ONNX Runtime has a family of its own
            raise EngineError(
                f"{file}: fails while running ({reason(error)}) on frame {name}; export it again."
            ) from error
        if not isinstance(found, np.ndarray) or found.ndim != 3 + soft or found.size == 0:
            raise EngineError(
                f"{file}: gives {_described(found)} on frame {name}, and no "
                f"{'logits (1, K, h, w)' if soft else 'labels (1, h, w)'}; export it again."
            )
        return _softmax(found[0]) if soft else np.asarray(found[0])

    return BlackBox(answer, hashlib.sha256(data).hexdigest(), space, spec)


def _described(found: Any) -> str:
    """An output of a graph, for a sentence."""
    shaped = isinstance(found, np.ndarray)
    return f"{found.dtype} {found.shape}" if shaped else f"a {type(found).__name__}"


def _function(source: str) -> BlackBox:
    wanted = "a function of an RGB image that returns probabilities or class indices"
    function = import_callable(source, f"black box '{source}'", wanted)

    def answer(name: str, image: NDArray[np.uint8]) -> Answer:
        try:
            return np.asarray(function(image))
        except Exception as error:
            raise EngineError(
                f"black box '{source}': raised {type(error).__name__} on frame {name}: {error}"
            ) from error

    return BlackBox(answer, source)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    p = np.exp(logits - logits.max(axis=0))
    return np.asarray(p / p.sum(axis=0), np.float32)
