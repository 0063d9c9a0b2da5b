"""Options of a black box that does not say its preprocessing and its output itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .parse import parse_duration, parse_triple

if TYPE_CHECKING:
    from ..adapt import BoxWiring

BoxOutput = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="NAME",
        help="Black box: which output of its file answers, by name or by number from 0.",
    ),
]
BoxColour = Annotated[
    str | None, typer.Option("--colour", help="Black box: rgb or bgr, of its file's network.")
]
BoxMean = Annotated[
    str | None,
    typer.Option("--mean", help="Black box: a,b,c in 0-255 units; ImageNet's unless given."),
]
BoxStd = Annotated[
    str | None,
    typer.Option("--std", help="Black box: a,b,c in 0-255 units; ImageNet's unless given."),
]
BoxAnswers = Annotated[
    str | None,
    typer.Option(
        "--answers",
        help="Black box: logits, probabilities or classes; found from the first unless given.",
    ),
]
BoxTimeout = Annotated[
    str,
    typer.Option(
        "--answer-timeout", help="Black box: the longest that an answer of a service may take."
    ),
]


def wiring_of(
    output: str | None,
    colour: Any,
    mean: str | None,
    std: str | None,
    answers: Any,
    answer_timeout: str,
) -> BoxWiring:
    """The options as a `BoxWiring`.

    Raises:
        ConfigError: one is malformed.
    """
    from ..adapt import BoxWiring

    return BoxWiring(
        output,
        colour,
        None if mean is None else parse_triple("--mean", mean),
        None if std is None else parse_triple("--std", std),
        answers,
        parse_duration("--answer-timeout", answer_timeout),
    )
