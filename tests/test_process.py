"""The command as a process: streams that fail, signals at any time, names that no library takes."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from roadshift import cli, cli_process, cli_start
from roadshift.runtime.errors import OutputError, RefusedError

ROADSHIFT = [sys.executable, "-m", "roadshift.cli"]


def shell(line: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """``line`` in a shell in which ``roadshift`` is this package's command."""
    defined = 'roadshift() { "$PYTHON" -m roadshift.cli "$@"; }; '
    return subprocess.run(
        ["bash", "-c", defined + line],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env={**os.environ, "PYTHON": sys.executable, **settings.pop("env", {})},
        **settings,
    )


# ---- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [">/dev/full", ">&-", "| true"])
@pytest.mark.parametrize("command", ["--version", "--help", "label-spaces", "label-spaces --json"])
def test_a_result_that_cannot_be_printed_is_one_sentence(command: str, where: str) -> None:
    done = shell(f"set -o pipefail; sleep 0.1; roadshift {command} {where}")
    if where == "| true" and done.returncode == 0:
        pytest.skip("the result was in the pipe before its reader went")
    assert done.returncode == 1
    assert done.stderr.startswith("error: Standard output cannot be written (")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["info", "info x --colour", "nothing", "--nothing"])
def test_a_command_line_that_cannot_be_parsed_is_an_error_like_any_other(command: str) -> None:
    done = shell(f"roadshift {command}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", "2> >(true)"])
def test_an_error_that_cannot_be_printed_keeps_its_exit_code(where: str) -> None:
    done = shell(f"roadshift info nothing {where}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_result_is_printed_where_stderr_is_closed(tmp_path: Path) -> None:
    """The file that is opened next must not become the place for libraries' messages."""
    done = shell("roadshift label-spaces --json 2>&- <&-", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("[")


@pytest.mark.parametrize("setting", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_a_name_in_another_encoding_is_named(tmp_path: Path, setting: dict[str, str]) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"fr\xfcher")
    os.mkdir(folder)
    env = {**os.environ, **setting}
    done = subprocess.run([*ROADSHIFT, "info", folder], capture_output=True, env=env)
    assert done.returncode == 1
    assert done.stderr.endswith(rb"fr\xfcher: is not a bundle, it has no manifest.json." + b"\n")


def test_an_argument_that_cannot_be_parsed_does_not_show_its_password() -> None:
    done = shell("roadshift info a rtsp://me:s3cret@10.0.0.7/front")
    assert done.returncode == 2
    assert "rtsp://***@10.0.0.7/***" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    "line", ["bench a --rounds N", "label-spaces N", "info N", "run N --out x", "export a --to N"]
)
def test_an_argument_of_any_length_is_not_repeated_whole(line: str) -> None:
    done = shell("roadshift " + line.replace("N", "9" * 5000))
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1000


# ---- the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loaded", "ends"), [("torch", "1 2 left"), ("other", "1 2 left del")])
def test_the_end_waits_for_all_but_the_taking_apart_of_torch(loaded: str, ends: str) -> None:
    code = f"""
import atexit, sys, threading, time, types
sys.argv = ["roadshift"]
from roadshift.cli_process import leave
class Big:
    def __del__(self, write=sys.stderr.write): write(" del")
module = sys.modules["{loaded}"] = types.ModuleType("{loaded}")
module.kept = Big()
def slow(): time.sleep(0.2); print("1", end=" ")
threading.Thread(target=slow).start()
atexit.register(print, "2", end=" ")
atexit.register(lambda: (print(end="", flush=True), sys.stderr.write("left")))
leave(7)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = (done.stdout + done.stderr).split()
    assert (done.returncode, said) == (7, ends.split()), done


# ---- signals ------------------------------------------------------------------------------------

SLOW_IMPORT = "import time, pathlib; pathlib.Path('began').touch(); time.sleep(60)"
SLOW_APP = """
import sys, time, pathlib
sys.argv = ["roadshift"]
from roadshift import cli_process
def app(standalone_mode):
    try:
        pathlib.Path("began").touch()
        time.sleep(60)
    finally:
        pathlib.Path("cleaned").touch()
sys.exit(cli_process.exit_code(app))
"""
DEAF_APP = """
import sys, time, pathlib
sys.argv = ["roadshift"]
from roadshift import cli_process
from roadshift.runtime.console import signals
signals.GRACE_S = 0.0
def app(standalone_mode):
    with signals.stop_on_signals():
        pathlib.Path("began").touch()
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:  # as a library's long call that Python cannot interrupt
                pass
sys.exit(cli_process.exit_code(app))
"""


def signalled(
    command: list[str], folder: Path, *numbers: signal.Signals, **env: str
) -> tuple[int, str]:
    """Exit code and stderr of a command that gets signals once it has made the file ``began``."""
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, env={**os.environ, **env}
    )
    while not (folder / "began").exists() and process.poll() is None:
        os.sched_yield()
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.2)  # two signals of a kind at once would be one
    _, said = process.communicate(timeout=50)
    return process.returncode, said


def test_an_interrupt_while_it_loads_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/typer.py").write_text(SLOW_IMPORT)
    path = os.pathsep.join([str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")])
    code, said = signalled([*ROADSHIFT, "doctor"], tmp_path, signal.SIGINT, PYTHONPATH=path)
    assert (code, said) == (130, "error: Interrupted before it began.\n")


def test_the_command_starts_by_taking_interrupts_and_loads_nothing_before() -> None:
    """An import before that would be time in which an interrupt is a traceback."""
    code = """
import sys
sys.argv = ["roadshift"]
for name in ("signal", "__future__", "pathlib"):  # what starts Python may have loaded them
    sys.modules.pop(name, None)
before = set(sys.modules)
import roadshift.cli_entry
print(*sorted(set(sys.modules) - before))
import signal
assert signal.getsignal(signal.SIGINT) is roadshift.cli_start._leave
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["roadshift", "roadshift.cli_entry", "roadshift.cli_start"]


@pytest.mark.parametrize("when", ["__enter__", "__exit__"])
def test_an_interrupt_as_the_command_comes_or_goes_is_one_line(when: str, tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
sys.argv = ["roadshift"]
from roadshift import cli_process
class Moment:
    def __init__(self, _):
        pass
    def __enter__(self):
        "__enter__" == "{when}" and os.kill(os.getpid(), signal.SIGINT)
    def __exit__(self, *_):
        "__exit__" == "{when}" and os.kill(os.getpid(), signal.SIGINT)
cli_process.ending_at_second_interrupt = Moment
sys.exit(cli_process.exit_code(lambda standalone_mode: 0))
"""
    code_, said = signalled([sys.executable, "-c", code], tmp_path)
    assert (code_, said) == (130, "error: Stopped by a signal before its end.\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_without_steps_cleans_up_and_says_why(
    tmp_path: Path, number: signal.Signals
) -> None:
    code, said = signalled([sys.executable, "-c", SLOW_APP], tmp_path, number)
    assert (code, said) == (130, f"error: Stopped by {number.name} before its end.\n")
    assert (tmp_path / "cleaned").exists()


def test_a_second_interrupt_ends_what_cannot_be_interrupted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DEAF_APP]
    code, said = signalled(command, tmp_path, signal.SIGINT, signal.SIGINT)
    assert (code, said) == (130, "error: Interrupted twice; stopped at once.\n")


def test_a_process_that_only_imports_the_command_keeps_its_handler() -> None:
    assert not cli_start.is_the_command()
    code = (
        "import signal; import roadshift.cli; "
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- how a command ends -------------------------------------------------------------------------


def ended(app: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and stderr of an application in this process."""
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    return cli_process.exit_code(app), err.getvalue()


def raising(error: BaseException) -> Callable[..., object]:
    def app(standalone_mode: bool) -> None:
        assert not standalone_mode
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space", "out/x"), "out/x: the disk is full"),
        (OSError(errno.ENAMETOOLONG, "Too long", b"y" * 300), "y: the name is too long"),
        (PermissionError(errno.EACCES, "Denied", "frames"), "frames: permission denied"),
        (OSError(errno.EMFILE, "Too many"), "A file: too many files are open"),
        (OSError(errno.ELOOP, "Loop", "a"), "a: symbolic links lead in a circle"),
        (MemoryError("Unable to allocate 3 TiB"), "not enough memory (Unable to allocate 3 TiB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "There is not enough memory"),
        (
            ImportError("libGL.so.1: cannot open shared object file: No such file or directory"),
            "libGL.so.1: cannot open shared object file: No such file or directory. A package",
        ),
        (UnicodeEncodeError("utf-8", "fr\udcfcher", 2, 3, "no"), r"fr\xfcher: this name holds"),
        (OutputError("two\nlines\x1b[31m"), r"two lines\x1b[31m"),
    ],
)
def test_what_a_user_can_fix_is_one_line(
    error: BaseException, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = ended(raising(error), monkeypatch)
    assert code == 1
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert says in said


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        RuntimeError("a bug"),
        ImportError("cannot import name"),
        UnicodeEncodeError("ascii", "ä", 0, 1, "no"),
    ],
)
def test_a_bug_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(error)) as caught:
        ended(raising(error), monkeypatch)
    assert caught.value is error


def test_exit_codes_of_commands_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(raising(RefusedError("keep it.")), monkeypatch) == (5, "error: keep it.\n")
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise typer.Exit(6)

    monkeypatch.setattr(sys, "argv", ["x"])
    assert ended(app, monkeypatch) == (6, "")


def test_a_warning_of_the_package_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def app(standalone_mode: bool) -> None:
        assert not standalone_mode
        logging.getLogger("roadshift").warning("Skipped: %s", "a\x1b[31m\nb")

    assert ended(app, monkeypatch) == (0, "Skipped: a\\x1b[31m b\n")
    assert logging.getLogger("roadshift").handlers == []


def test_main_is_the_entry(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["roadshift", "--version"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert (stopped.value.code, capsys.readouterr().out) == (0, "roadshift 0.1.0\n")


@pytest.mark.parametrize(("error", "told"), [(KeyboardInterrupt, False), (ValueError, True)])
def test_of_what_a_finaliser_loses_an_interrupt_is_not_told(
    error: type[BaseException], told: bool
) -> None:
    code = f"""
import sys
from roadshift import cli_process
sys.argv = ["roadshift"]

class Lost:
    def __del__(self):
        raise {error.__name__}

def app(standalone_mode):
    Lost()

print(cli_process.exit_code(app))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "0\n"
    assert ("Exception ignored" in done.stderr) is told
