"""The topic of a bag that is its camera, and what is said where that is not clear."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import FrameError, arg
from ..words import counted
from .bag import BagIndex
from .compressed import is_depth
from .message_fields import RAW
from .messages import CAMERA_SCHEMAS
from .pixels import ENCODINGS
from .regions import BrokenBagError

_SHOWN = 12  # topics that a sentence lists
_ASKED = 3  # messages of a topic
# Behind the name of a camera or a node, beside "label_info": what `run` and `ros` publish.
_RESULTS = ("/labels", "/overlay/compressed", "/mask", "/colored_mask")


def camera_topic(index: BagIndex, asked: str | None) -> str:
    """The topic to read pictures from: the one asked for, or the only one.

    Maps of depth, which are of the same type as pictures, are told by their encoding; label maps
    and overlays of a model by the list of classes beside them.

    Args:
        asked: a topic, with or without its first slash; None: find it.

    Raises:
        FrameError: it holds no such topic, none with pictures, or several.
    """
    if asked is not None:
        return _asked_topic(index, asked)
    cameras = [topic for topic in sorted(index.messages) if index.messages[topic]]
    results = [topic for topic in cameras if _is_result(index, topic)]
    rest = (topic for topic in cameras if topic not in results)
    pictures = [topic for topic in rest if not _is_depth(index, topic)]
    if len(pictures) == 1:
        return pictures[0]
    if pictures:
        raise FrameError(
            f"{index.path} has pictures on {len(pictures)} topics: {_listed(index, pictures)}; "
            f"choose one with {arg('topic')}, or write it behind the bag: "
            f"{index.path}#{pictures[0]}."
        )
    if results:
        raise FrameError(
            f"{index.path} holds what a model made of pictures ({', '.join(results)}), and none; "
            f"give the bag of the camera, or name what to take for pictures with {arg('topic')}."
        )
    raise FrameError(
        f"{index.path} holds no pictures: {_all_topics(index)}; give a bag with a camera, whose "
        f"messages are images of sensor_msgs or of Foxglove.{_damage(index)}"
    )


def _asked_topic(index: BagIndex, asked: str) -> str:
    topic = asked if asked in index.schemas else f"/{asked}"
    if topic not in index.schemas:
        raise FrameError(
            f"{index.path} has no topic {asked}: {_all_topics(index)}; choose one of them with "
            f"{arg('topic')}.{_damage(index)}"
        )
    if index.schemas[topic] not in CAMERA_SCHEMAS:
        raise FrameError(
            f"{index.path}: {topic} holds no pictures but {index.schemas[topic]}; choose another "
            f"topic with {arg('topic')}: {_all_topics(index)}."
        )
    if not index.messages.get(topic):
        raise FrameError(f"{index.path} has no message on {topic}.{_damage(index)}")
    return topic


def _all_topics(index: BagIndex) -> str:
    if not index.schemas:
        return "it has no topics"
    return f"its topics are {_listed(index, sorted(index.schemas))}"


def _listed(index: BagIndex, topics: list[str]) -> str:
    said = [
        f"{topic} ({index.schemas[topic] or 'no type'}, {_messages(index, topic)})"
        for topic in topics[:_SHOWN]
    ]
    more = f", and {len(topics) - _SHOWN} more" if len(topics) > _SHOWN else ""
    return ", ".join(said) + more


def _messages(index: BagIndex, topic: str) -> str:
    """Number of messages, and of pictures their encoding and rate."""
    messages = index.messages.get(topic, [])
    said = counted(index.counts.get(topic, 0), "message")
    if len(messages) > 1:
        span_ns = messages[-1].place.log_ns - messages[0].place.log_ns
        if span_ns > 0:
            said += f", {(len(messages) - 1) * 1e9 / span_ns:.3g} a second"
    encoding = _first_encoding(index, topic)
    return f"{encoding[1][:40]}, {said}" if encoding and encoding[1] else said


def _is_result(index: BagIndex, topic: str) -> bool:
    """Tell whether a topic holds what a model made of pictures."""
    behind = (topic.removesuffix(end) for end in _RESULTS if topic.endswith(end))
    return any(f"{name}/label_info" in index.schemas for name in behind)


def _is_depth(index: BagIndex, topic: str) -> bool:
    """Tell whether the first messages that can be read hold something else than pictures.

    Several are asked, for one that is damaged may state anything.
    """
    found = False
    for kind, encoding in _encodings(index, topic):
        found = is_depth(encoding) or (kind == RAW and encoding.strip().lower() not in ENCODINGS)
        if not found:
            break
    return found


def _first_encoding(index: BagIndex, topic: str) -> tuple[str, str] | None:
    """Kind and encoding of a topic's first good message; None where there is none."""
    return next(_encodings(index, topic), None)


def _encodings(index: BagIndex, topic: str) -> Iterator[tuple[str, str]]:
    """Kind and encoding of those of a topic's first three messages that can be read."""
    with index.opened() as files:
        for message in index.messages.get(topic, [])[:_ASKED]:
            try:
                found = index.read(files, message)
            except BrokenBagError:
                continue
            yield found.kind, found.encoding


def _damage(index: BagIndex) -> str:
    if not index.damage:
        return ""
    path, clause = index.damage[0]
    return f" {path} is damaged: {clause}."
