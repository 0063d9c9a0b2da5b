"""`roadshift report` and `card`: pages about models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import AllowNetwork, Backend, BundleIn, Device, Overwrite, Threads, Topic

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ..runtime.bundle import Bundle
    from ..runtime.reporting.html import Section


def report(
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(metavar="BUNDLE...", help="From the source model to the newest."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file to write.")] = Path(
        "report.html"
    ),
    frames: Annotated[
        list[str] | None,
        typer.Option(
            "--frames", help="Three of these through every model; may be given several times."
        ),
    ] = None,
    result: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COMMAND=FILE",
            help="What a command printed with --json: eval, bench, compare, judge, export.",
        ),
    ] = None,
    slots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Slots, for their audit file.")
    ] = None,
    overwrite: Overwrite = False,
    topic: Topic = None,
    backend: Backend = "auto",
    device: Device = "auto",
    threads: Threads = None,
    allow_network: AllowNetwork = None,
) -> None:
    """Write one self-contained page: lineage, losses, verdicts, files, figures, signatures.

    It asks nobody for anything, follows light and dark, and prints.
    """
    from ..runtime.bundle import open_bundle
    from ..runtime.console.terminal import note, say
    from ..runtime.engines import open_engine
    from ..runtime.errors import OutputError
    from ..runtime.frames import open_frames
    from ..runtime.frames.source_files import with_topic
    from ..runtime.reporting.pictures import picture_sections
    from ..runtime.reporting.report import write_report
    from ..runtime.slots import open_slots

    if out.exists() and not overwrite:
        raise OutputError(f"{out}: already exists; choose another name or use --overwrite.")
    opened = [open_bundle(path, allow_networks=allow_network or ()) for path in bundles or ()]
    pictures = []
    if read := with_topic(frames or (), topic):
        pictures = picture_sections(
            opened,
            open_frames(read, on_skip=note),
            open_with=lambda b: open_engine(b, backend=backend, device=device, threads=threads),
        )
    write_report(
        out,
        opened,
        results=_results(result or ()),
        pictures=pictures,
        slots=open_slots(slots) if slots is not None else None,
    )
    say(f"Wrote {out}.")


def card(
    bundle: BundleIn,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The Markdown file; printed unless given.")
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option("--eval", metavar="FILE", help="What roadshift eval --json printed."),
    ] = None,
    bill: Annotated[
        Path | None,
        typer.Option("--sbom", metavar="FILE", help="A bill of materials, too (CycloneDX, JSON)."),
    ] = None,
) -> None:
    """Write a model card, with the front matter that the Hugging Face hub reads."""
    import json

    from ..runtime.atomic import write_whole
    from ..runtime.bundle import open_bundle
    from ..runtime.console.streams import results
    from ..runtime.console.terminal import say
    from ..runtime.reporting.card import model_card
    from ..runtime.reporting.materials import bill_of_materials

    opened = open_bundle(bundle)
    text = model_card(opened, _read(evaluation) if evaluation is not None else None)
    if bill is not None:
        write_whole(bill, (json.dumps(bill_of_materials(opened), indent=1) + "\n").encode())
    if out is None:
        results().write(text)  # Markdown, in which blanks at the start of a line count
        results().flush()
    else:
        write_whole(out, text.encode())
        say(f"Wrote {out}{f' and {bill}' if bill else ''}.")


def write_page(
    path: Path | None,
    name: str,
    document: Any,
    models: Sequence[Bundle | Path | str] = (),
    pictures: Sequence[Section] = (),
    *,
    frames: Sequence[str] = (),
    allow_networks: Collection[str] = (),
    threads: int | None = None,
) -> None:
    """Write the page of a command that was given ``--report``; nothing without.

    Args:
        models: bundles, from the source model to the newest, or where they lie; what is no bundle,
            such as a black box, is left out.
        frames: three of them are shown through each model.
        allow_networks, threads: for those.
    """
    if path is None:
        return
    from ..runtime.bundle.manifest import MANIFEST_NAME
    from ..runtime.console.terminal import note
    from ..runtime.reporting.report import write_report

    results = {name: document} if document is not None else None
    bundles = [
        model
        for model in models
        if not isinstance(model, str | Path) or (Path(model) / MANIFEST_NAME).exists()
    ]
    shown = _before_and_after(bundles, frames, allow_networks, threads) if frames else []
    write_report(path, bundles, results=results, pictures=[*pictures, *shown])
    note(f"Wrote {path}.")


def _before_and_after(
    models: Sequence[Bundle | Path | str],
    frames: Sequence[str],
    allow_networks: Collection[str],
    threads: int | None,
) -> list[Section]:
    """The same frames through each model; none, and a note, where they cannot be made."""
    from ..runtime.bundle import open_bundle
    from ..runtime.console.terminal import note
    from ..runtime.engines import open_engine
    from ..runtime.errors import EngineError, FrameError
    from ..runtime.frames import open_frames
    from ..runtime.reporting.pictures import picture_sections

    try:
        return picture_sections(
            [
                open_bundle(model, allow_networks=allow_networks)
                if isinstance(model, str | Path)
                else model
                for model in models
            ],
            open_frames(list(frames), on_skip=lambda _: None),  # what is skipped was said before
            open_with=lambda bundle: open_engine(bundle, threads=threads),
        )
    except (EngineError, FrameError) as error:  # the command's own work is done
        note(f"the page has no pictures: {error}")
        return []


def _results(entries: Sequence[str]) -> dict[str, Any]:
    from .parse import key_and_value

    found = {}
    for entry in entries:
        name, file = key_and_value(entry)
        if file is None or not name.isidentifier():
            raise typer.BadParameter(f"{entry!r}: write it as COMMAND=FILE.", param_hint="--result")
        found[name] = _read(Path(file))
    return found


def _read(path: Path) -> Any:
    """JSON that a command printed."""
    from ..runtime.errors import ConfigError
    from ..runtime.strict_json import JsonError, read_json

    try:
        return read_json(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except JsonError as error:
        raise ConfigError(f"{path}: is not JSON ({error}); give what --json printed.") from error
