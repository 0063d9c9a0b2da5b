"""Options and arguments that several commands share, as types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runtime.console.streams import reserved_stdout
from ..runtime.engines.registry import BACKENDS


def _one_document(context: typer.Context, wanted: bool) -> bool:
    """Leave standard output to the command's JSON document until the command ends."""
    if wanted and not context.resilient_parsing:
        context.with_resource(reserved_stdout())
    return wanted


def _may_be_written(path: Path | None) -> Path | None:
    """Refuse a page's file before hours are spent on what it shall show."""
    if path is not None and path.is_dir():
        raise typer.BadParameter(f"{path} is a folder; give the name of a file.")
    if path is not None and not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"{path.parent} is not an existing folder; create it first.")
    return path


Json = Annotated[
    bool,
    typer.Option(
        "--json", callback=_one_document, help="One JSON document on stdout, nothing else."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Backend = Annotated[str, typer.Option(help=f"{', '.join(('auto', *BACKENDS))}.")]
BundleIn = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A model bundle (a folder).")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The bundle to write.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="PATH",
        help="Which of the things that a network of your own returns are its logits: 1, main, "
        "0.out; needed where that is not clear.",
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        callback=_may_be_written,
        help="One self-contained HTML page of the result.",
    ),
]
Config = Annotated[
    Path | None, typer.Option(help="TOML file with settings, or the name of a recipe.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. iapc.weight_pe=0.5."),
]
Losses = Annotated[str | None, typer.Option("--losses", hidden=True)]  # --loss-backend's old name
LossBackend = Annotated[
    str | None,
    typer.Option(help="reference, tiled or triton; unless given, what the device asks for."),
]
Seed = Annotated[int | None, typer.Option(help="Random seed; the configuration's unless given.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")]
CheckpointEvery = Annotated[str, typer.Option(help="Time between checkpoints, e.g. 60s or 5m.")]
NetworkArgument = Annotated[
    list[str] | None,
    typer.Option("--argument", metavar="KEY=VALUE", help="An argument of the network."),
]
TimeBudget = Annotated[str | None, typer.Option(help="Stop in time, e.g. 20m.")]
MemoryBudget = Annotated[str | None, typer.Option(help="Peak memory, e.g. 6GB.")]
Duration = Annotated[str | None, typer.Option(help="Stop after this time, e.g. 90s or 8h.")]
FramesRead = Annotated[int | None, typer.Option(min=1, help="Stop after so many frames were read.")]
FramesLookedAt = Annotated[int, typer.Option(min=1, help="Look at no more, evenly spaced.")]
ArtefactIn = Annotated[str | None, typer.Option(help="The bundle's file to run.")]
AllowNetwork = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-network",
        metavar="PACKAGE.MODULE",
        help="Let a bundle's network run this module's code, in this command alone; may be given "
        "several times.",
    ),
]
LabelSpaceOfFiles = Annotated[
    str | None,
    typer.Option(
        "--label-space", help="Label space of the label files; the bundle's own unless given."
    ),
]
LabelMapFile = Annotated[
    Path | None,
    typer.Option(
        "--label-map",
        metavar="FILE",
        help="JSON: the model's classes as those of --label-space; built in for Cityscapes' "
        "classes, see docs/label-maps.md.",
    ),
]
Older = Annotated[
    list[str] | None,
    typer.Option(
        "--older",
        metavar="FRAMES",
        help="Frames of conditions that the incumbent serves: measure what is forgotten of them; "
        "may be given several times.",
    ),
]
Topic = Annotated[
    str | None,
    typer.Option(
        metavar="TOPIC",
        help="Camera of the bags in FRAMES, e.g. /front/image; needed where a bag has several.",
    ),
]
Slots = Annotated[
    Path | None,
    typer.Option(
        "--slots", metavar="DIR", help="Run the model of a vehicle's slots, see roadshift slot."
    ),
]
TrustOfModel = Annotated[
    Path | None,
    typer.Option(
        "--trust",
        metavar="DIR",
        help="The folder with trust.json, for --slots; a BUNDLE has to be signed, then, too.",
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores unless given.")]
Nice = Annotated[
    int, typer.Option(min=0, max=19, help="Lower priority than other programs by so much.")
]
BACKGROUND = 5  # niceness of commands that learn for hours, beside whatever else the machine does
