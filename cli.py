"""The command line: names the commands and turns errors into exit codes."""

from __future__ import annotations

from . import cli_start  # noqa: F401 - first: what follows takes a while, and may be interrupted

# isort: split
import sys
from typing import Annotated, NoReturn

import typer

from . import __version__
from .cli_process import exit_code, leave
from .commands.catalogue import COMMANDS, GROUPS

app = typer.Typer(
    name="roadshift",
    help="Adapt a segmentation model to the roads a vehicle drives, export it, run it, measure it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would double the time of --help, and box one-line errors
)

for _name, _command in COMMANDS.items():
    app.command(name=_name)(_command)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)


def main() -> NoReturn:
    """Run the command line: errors a user can fix are one line on stderr, without a traceback."""
    sys.exit(exit_code(app))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"roadshift {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version  # handled by its callback


if __name__ == "__main__":
    leave(exit_code(app))
