"""`roadshift import`."""

from __future__ import annotations

from typing import Annotated

import typer

from .learning import needs_torch
from .options import Json, NetworkArgument, Out, Output, Overwrite
from .parse import parse_arguments, parse_size, parse_triple


def import_(
    weights: Annotated[
        str, typer.Argument(help="A .pth, .pt or .safetensors file; or hf:FOLDER, from the hub.")
    ],
    out: Out,
    network: Annotated[
        str | None,
        typer.Option(help="A network or package.module:factory; hf:FOLDER may say it itself."),
    ] = None,
    label_space: Annotated[
        str | None,
        typer.Option(help="A built-in label space or a JSON file; hf:FOLDER may say it itself."),
    ] = None,
    input_size: Annotated[
        str | None,
        typer.Option(help="WxH that the model sees; of hf:FOLDER its own, else 1024x512."),
    ] = None,
    colour: Annotated[str | None, typer.Option(help="rgb or bgr.")] = None,
    mean: Annotated[str | None, typer.Option(help="a,b,c in 0-255 units.")] = None,
    std: Annotated[str | None, typer.Option(help="a,b,c in 0-255 units.")] = None,
    argument: NetworkArgument = None,
    output: Output = None,
    key: Annotated[
        str | None, typer.Option(help="Where in the file the weights lie, e.g. model.ema.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a bundle of a published checkpoint, or of one's own."""
    from ..runtime.console.terminal import note
    from .tables import print_made

    with needs_torch("import"):
        from ..adapt.workflows.import_bundle import import_bundle
        from ..runtime.labels import label_space as find_label_space

        bundle = import_bundle(
            weights,
            network,
            None if label_space is None else find_label_space(label_space),
            out,
            input_size=None if input_size is None else parse_size("--input-size", input_size),
            colour=colour,
            mean=None if mean is None else parse_triple("--mean", mean),
            std=None if std is None else parse_triple("--std", std),
            arguments=parse_arguments("--argument", argument or ()),
            output=output,
            key=key,
            overwrite=overwrite,
            note=note,
        )
    print_made(bundle, as_json)
