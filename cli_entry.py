"""The entry point of the command, which takes interrupts before it loads anything else."""

from . import cli_start  # noqa: F401 - its handler is set by the import


def main() -> None:
    """Run the command line; never returns."""
    from .cli import app
    from .cli_process import exit_code, leave

    leave(exit_code(app))
