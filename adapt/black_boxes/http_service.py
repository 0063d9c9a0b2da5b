"""A service on this machine as a black box, ``http://127.0.0.1:PORT/PATH``; docs/black-box.md.

GET   -> JSON that describes it, all of it optional: "label_space", "classes", "input_size",
         "identity", "accepts"
POST  -> one frame's answer: image/png of class indices, application/x-npy, or
         application/json {"classes" or "logits" or "probabilities": nested lists}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import ConfigError, EngineError, LabelSpaceError, arg
from ...runtime.frames.preprocess import fit_frame
from ...runtime.labels import LABEL_SPACES, LabelSpace
from ...runtime.labels import label_space as find_label_space
from ...runtime.pictures.png import decode_label_png, parse_png
from ...runtime.strict_json import parse_json
from ..models.loading import IMAGENET_INPUT
from .arrays import parse_npy
from .base import Answer, BlackBox, BoxWiring, Holds, Note
from .loopback import LoopbackUrl, Reply, request
from .reading import AnswerReader

LARGEST_REPLY, LARGEST_DESCRIPTION = 256 << 20, 1 << 20  # bytes
LARGEST_SIDE = 32767  # OpenCV resizes no larger ones
PNG, RAW, NPY, JSON = (
    "image/png",
    "application/octet-stream",
    "application/x-npy",
    "application/json",
)
_KEYS = ("label_space", "classes", "input_size", "identity", "accepts")


@dataclass(frozen=True)
class _Described:
    """A service's description of itself."""

    label_space: LabelSpace | None = None
    classes: tuple[str, ...] | None = None
    input_size: tuple[int, int] | None = None
    identity: str = ""
    accepts: str = PNG


def open_service(source: str, wiring: BoxWiring, space: LabelSpace | None, note: Note) -> BlackBox:
    """Open a service, and ask what it is.

    Raises:
        ConfigError: the URL leads elsewhere; or its classes are not known, or contradict ``space``.
        EngineError: it does not answer, or with something else.
    """
    wiring.check_unused(
        source, "prepares images and chooses its outputs itself", ("answers", "answer_timeout_s")
    )
    url, timeout_s = LoopbackUrl.parse(source), wiring.timeout_s
    told = _description(url, timeout_s)
    own = told.label_space
    classes = own or space
    if classes is None:
        raise ConfigError(
            f"{source}: does not say what its classes are; give {arg('label_space')}."
        )
    if told.classes is not None and told.classes != classes.classes:
        raise ConfigError(
            f"{source}: answers in the classes {', '.join(told.classes[:5])}, which are "
            f"{len(told.classes)}, and {classes.name} has others; give the {arg('label_space')} "
            "of its classes."
        )
    readers: dict[Holds | None, AnswerReader] = {}

    def reader_of(holds: Holds | None) -> AnswerReader:
        """The one for replies that say what they hold, or that do not: None."""
        if holds not in readers:
            readers[holds] = AnswerReader(
                classes.num_classes, source, note, holds=holds or wiring.answers, advice="mend it"
            )
        return readers[holds]

    def answer(name: str, image: NDArray[np.uint8]) -> Answer:
        if told.input_size is not None:
            image = fit_frame(image, *told.input_size)
        body, headers = _request_of(image, told.accepts)
        reply = request(
            url,
            "POST",
            body=body,
            headers={**headers, "X-Frame-Name": name},
            timeout_s=timeout_s,
            largest=LARGEST_REPLY,
        )
        if reply.status != 200:
            raise EngineError(f"{source}: answers a POST with status {reply.status}; mend it.")
        holds, array = _array_of(reply, source, name)
        return reader_of(holds).read(array, name)

    about = [source, told.identity, classes.to_dict(), told.input_size]
    spec = None
    if told.input_size is not None:
        width, height = told.input_size
        spec = IMAGENET_INPUT.model_copy(update={"width": width, "height": height})
    return BlackBox(answer, hashlib.sha256(json.dumps(about).encode()).hexdigest(), own, spec)


def _description(url: LoopbackUrl, timeout_s: float) -> _Described:
    """The service's description of itself; nothing where it has none."""
    reply = request(url, "GET", timeout_s=timeout_s, largest=LARGEST_DESCRIPTION)
    if reply.status != 200:
        return _Described()
    try:
        return _described(parse_json(reply.content))
    except (LabelSpaceError, ValueError) as error:
        raise EngineError(
            f"{url.text}: describes itself by a GET with something else than docs/black-box.md "
            f"says ({error})."
        ) from error


def _described(told: Any) -> _Described:
    """The description, checked; ValueError or LabelSpaceError where it is malformed."""
    if not isinstance(told, Mapping):
        raise ValueError("it is no JSON object")
    unknown = sorted(set(told) - set(_KEYS))
    if unknown:
        raise ValueError(f"unknown keys {unknown}; known are {list(_KEYS)}")
    space, classes, size = told.get("label_space"), told.get("classes"), told.get("input_size")
    if isinstance(space, str):
        if space not in LABEL_SPACES:
            raise ValueError(f"label_space {space!r} is not built in; write it out")
        space = find_label_space(space)
    elif space is not None:
        space = LabelSpace.from_dict(space)
    names = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if classes is not None and not names:
        raise ValueError("classes is no list of names")
    sides = isinstance(size, list) and [type(side) for side in size] == [int, int]
    if size is not None and not (sides and min(size) >= 1 and max(size) <= LARGEST_SIDE):
        raise ValueError("input_size is no [width, height] in pixels")
    identity, accepts = told.get("identity", ""), told.get("accepts", PNG)
    if not isinstance(identity, str):
        raise ValueError("identity is no text")
    if accepts not in (PNG, RAW):
        raise ValueError(f"accepts is neither {PNG} nor {RAW}")
    return _Described(
        space,
        None if classes is None else tuple(classes),
        None if size is None else (size[0], size[1]),
        identity,
        accepts,
    )


def _request_of(image: NDArray[np.uint8], accepts: str) -> tuple[bytes, dict[str, str]]:
    """The body for a uint8 RGB image (H, W, 3), and its headers."""
    height, width = image.shape[:2]
    shape = {"X-Shape": f"{height},{width},3", "Accept": f"{PNG}, {NPY}, {JSON}"}
    if accepts == RAW:
        return image.tobytes(), {"Content-Type": RAW, **shape}
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return encoded.tobytes(), {"Content-Type": PNG, **shape}


def _array_of(reply: Reply, source: str, name: str) -> tuple[Holds | None, NDArray[Any]]:
    """The array of a reply, and what it says that this holds.

    Raises:
        EngineError, LabelError: it holds none.
    """
    where = f"{source}: the reply to frame {name}"
    if reply.kind == PNG:
        png = parse_png(reply.content, where)
        if png.is_colour:
            raise EngineError(f"{where} is a colour picture; send class indices in one channel.")
        return "classes", decode_label_png(png, where)
    try:
        if reply.kind == NPY:
            return None, parse_npy(reply.content)
        if reply.kind == JSON:
            return _array_in(parse_json(reply.content))
    except ValueError as error:
        raise EngineError(f"{where} cannot be read as {reply.kind} ({error}); mend it.") from error
    raise EngineError(
        f"{where} is {reply.kind or 'of no type'}; send {PNG}, {NPY} or {JSON} and say which."
    )


def _array_in(told: Any) -> tuple[Holds, NDArray[Any]]:
    """The one array of a JSON reply; ValueError where there is none."""
    kinds: tuple[Holds, ...] = ("classes", "logits", "probabilities")
    given = [kind for kind in kinds if isinstance(told, Mapping) and kind in told]
    if len(given) != 1 or len(told) != 1:
        raise ValueError(f"it is no object with one of {', '.join(kinds)}")
    (kind,) = given
    array = np.asarray(told[kind])  # ValueError for rows of different lengths
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{kind} holds other things than numbers")
    if kind != "classes":
        array = array.astype(np.float32)
    return kind, array
