"""Errors that a user can fix: each message one sentence with what, where and what to do.

A message names the argument of the Python function, "older" or "gate=False", written with `arg`;
the command line, which has flags in their place, prints `RoadshiftError.told`. It adds no traceback
and exits with ``exit_code``. Anything else that escapes is a bug and keeps its traceback. A note
that names arguments is a `Sentence`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Between two characters of Unicode's private use, which stand in no message that is shown.
_MENTION = re.compile("\ue000([a-z_0-9]+)(=[^\ue001]*)?\ue001")
Flag = Callable[[str, "str | None"], str]


def arg(name: str, *value: object) -> str:
    """A function's argument, for the message of a `RoadshiftError`: ``name`` or ``name=value``."""
    given = f"={value[0]!r}" if value else ""
    return f"\ue000{name}{given}\ue001"


class Sentence(str):
    """A note that names arguments, as `RoadshiftError` does: in Python by their names.

    Attributes:
        marked: the sentence with its arguments as `arg` writes them, for use in another.
    """

    marked: str

    def __new__(cls, text: str) -> Sentence:
        sentence = super().__new__(cls, _plain(text))
        sentence.marked = text
        return sentence

    def told(self, flag: Flag) -> str:
        """The sentence with ``flag(name, repr of the value or None)`` in place of each argument."""
        return _flagged(self.marked, flag)


def marked(text: object) -> str:
    """The text of a `Sentence` or an error for use in another, its arguments still marked."""
    return str(getattr(text, "marked", text))


def _plain(text: str) -> str:
    return _MENTION.sub(lambda m: m[1] + (m[2] or ""), text)


def _flagged(text: str, flag: Flag) -> str:
    return _MENTION.sub(lambda m: flag(m[1], m[2] and m[2][1:]), text)


class RoadshiftError(Exception):
    """Base of every error that a user can fix.

    Attributes:
        marked: the message with its arguments as `arg` writes them, for use in another message.
    """

    exit_code = 1
    _of: str | None = None

    def __init__(self, message: str = "", *rest: Any) -> None:
        super().__init__(_plain(message), *rest)
        self.marked = message

    @property
    def argument(self) -> str | None:
        """The name of the first argument that the message names, or else of the one it is `of`."""
        found = _MENTION.search(self.marked)
        return found[1] if found else self._of

    def of(self, name: str) -> None:
        """Make it an error of the argument ``name``, unless it is known as another's."""
        self._of = self._of or name

    def told(self, flag: Flag) -> str:
        """The message with ``flag(name, repr of the value or None)`` in place of each argument."""
        return _flagged(self.marked, flag)


@contextmanager
def naming(**kinds: type[RoadshiftError]) -> Iterator[None]:
    """Let errors that escape name an argument: ``out=OutputError``, those of that class ``out``.

    For functions that know whose path or name it was; the message, which has it, stays as it is.
    """
    try:
        yield
    except RoadshiftError as error:
        for name, kind in kinds.items():
            if isinstance(error, kind):
                error.of(name)
        raise


class BundleError(RoadshiftError):
    """A model bundle is missing, damaged, tampered with, from a newer schema, or already there."""


class OutputError(RoadshiftError):
    """Results cannot be written: the folder is missing or read-only, or the disk is full."""


class FrameError(RoadshiftError):
    """Frames cannot be read: no such source, an empty folder, a damaged file, an odd format."""


class LabelError(RoadshiftError):
    """Ground-truth labels are missing, of another size, or hold ids their label space lacks."""


class LabelSpaceError(RoadshiftError):
    """A label space is unknown or malformed, or does not match the network or the labels."""


class ConfigError(RoadshiftError):
    """A setting is unknown, of the wrong type, or out of range."""


class NetworkError(RoadshiftError):
    """A network is unknown, cannot be built, or its weights do not fit it."""


class ShapeError(RoadshiftError):
    """An array or tensor handed to a public function has the wrong shape or dtype."""


class EngineError(RoadshiftError):
    """No engine can run this bundle here, or the engine asked for is not available."""


class ParityError(RoadshiftError):
    """An exported artefact does not do what the model that it came from does."""


class FloorError(ParityError):
    """An artefact changes the model's answers more than its floor or its precision allows.

    Attributes:
        metric: "label_agreement" (percent of pixels), "miou_drop" (points), "logit_difference" or
            "largest_weight".
        measured: the number that was found.
        limit: the least agreement, or the most of another metric, that is allowed.
    """

    exit_code = 7

    def __init__(
        self, message: str = "", *, metric: str = "", measured: float = 0.0, limit: float = 0.0
    ) -> None:
        super().__init__(message)
        self.metric, self.measured, self.limit = metric, measured, limit


class TrainingError(RoadshiftError):
    """A run cannot go on: losses stay non-finite, or it does not fit its memory budget."""


class MissingDependencyError(RoadshiftError):
    """A package that this command needs is not installed."""


class RegressionError(RoadshiftError):
    """A bench is worse than its baseline allows; not a failure to measure, so CI can tell."""

    exit_code = 3


class RefusedError(RoadshiftError):
    """The gate keeps the incumbent; the candidate was written and is marked as refused.

    Attributes:
        search: of a search in which no candidate may win, what it found, see `search_settings`.
    """

    exit_code = 5
    search: Mapping[str, Any] | None = None


class UndecidedError(RoadshiftError):
    """The gate cannot tell whether the candidate is better; it was written, a person decides."""

    exit_code = 6


class SignatureError(RoadshiftError):
    """A key cannot be used, or nobody who is trusted signed the bundle as it is."""

    exit_code = 8


class SlotError(RoadshiftError):
    """A vehicle's slots are damaged, busy, or not in the state that a change needs."""


class UnhealthyError(RoadshiftError):
    """A model on trial did not pass its checks; the one before runs on."""

    exit_code = 9


class RunInterrupted(RoadshiftError):  # noqa: N818 - an interruption, not a failure
    """The run was stopped by a signal after writing a checkpoint; it can be resumed."""

    exit_code = 130
