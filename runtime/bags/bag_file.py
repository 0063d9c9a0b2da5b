"""The type of an opened bag file: channels, where their messages lie, and the messages."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

ROS1, CDR, PROTOBUF, JSON = "ros1", "cdr", "protobuf", "json"


@dataclass(frozen=True, slots=True)
class Channel:
    """One publisher's messages on a topic.

    Attributes:
        topic: such as "/front/image".
        schema: name of the messages' type, as the bag has it.
        encoding: of the messages, "ros1", "cdr", "protobuf" or "json".
        definition: text of the type, where the bag has it as text.
    """

    topic: str
    schema: str
    encoding: str
    definition: str = ""


class Place(NamedTuple):
    """The place of a message; places sort by the times at which messages were recorded."""

    log_ns: int
    chunk: int  # byte at which its chunk begins, or number of its page; -1: it lies in none
    at: int  # byte in the chunk or the file, or a row's number, in its page where it has one
    channel: int


@dataclass
class Contents:
    """Contents of a bag file.

    Attributes:
        channels: by number.
        counts: messages of each channel.
        places: of the channels that were asked for, in the order of their times.
        was_scanned: there was no whole index, so the file was gone through.
        damage: a clause on what is wrong with the file, such as "it ends within a record", or None.
    """

    channels: dict[int, Channel] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    places: list[Place] = field(default_factory=list)
    was_scanned: bool = False
    damage: str | None = None

    def found(self, place: Place, wanted: Collection[str]) -> None:
        """Count a message, and keep its place if its channel has a wanted schema."""
        self.counts[place.channel] = self.counts.get(place.channel, 0) + 1
        channel = self.channels.get(place.channel)
        if channel is not None and channel.schema in wanted:
            self.places.append(place)

    def damaged(self, clause: str) -> None:
        """Keep the first clause on damage."""
        self.damage = self.damage or clause


class BagFile(Protocol):
    """An opened file of a bag."""

    def contents(self, wanted: Collection[str]) -> Contents:
        """Channels and counts, and the places of messages of the schemas that are ``wanted``."""

    def read(self, place: Place) -> memoryview:
        """The message at a place.

        Raises:
            BrokenBagError: none lies there.
        """

    def close(self) -> None:
        """Close the file."""
