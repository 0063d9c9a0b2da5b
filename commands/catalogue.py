"""Every command and group of commands, by its name on the command line."""

from __future__ import annotations

from collections.abc import Callable

import typer

from .adapt import adapt
from .ask import ask
from .bench import bench
from .collect import collect
from .compare import compare
from .demo import demo
from .doctor import doctor
from .eval_ import eval_
from .explain import explain
from .export import export
from .import_ import import_
from .info import info
from .judge import judge
from .listings import label_spaces, methods, networks
from .report import card, report
from .reproduce import reproduce
from .ros import ros
from .run import run
from .select import select
from .signing import keygen, pack, sign, verify
from .slot import slot
from .train import train
from .trust import trust

COMMANDS: dict[str, Callable[..., None]] = {  # in the order of --help
    "demo": demo,
    "train": train,
    "import": import_,
    "adapt": adapt,
    "ask": ask,
    "judge": judge,
    "compare": compare,
    "explain": explain,
    "reproduce": reproduce,
    "eval": eval_,
    "export": export,
    "run": run,
    "collect": collect,
    "select": select,
    "ros": ros,
    "bench": bench,
    "info": info,
    "report": report,
    "card": card,
    "networks": networks,
    "methods": methods,
    "label-spaces": label_spaces,
    "keygen": keygen,
    "sign": sign,
    "verify": verify,
    "pack": pack,
    "doctor": doctor,
}

GROUPS: dict[str, typer.Typer] = {
    "trust": trust,
    "slot": slot,
}
