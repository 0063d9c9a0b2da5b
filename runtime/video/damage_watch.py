"""Recorded videos looked over for damage that their decoder mends, beside whoever reads them.

A process of its own does it (see `decoder_errors`), at the lowest priority and one video after the
other. Whatever keeps it from its work is a note, never an error.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..closing import Closing
from ..words import counted
from . import decoder_errors

Phase = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
"""Shows a stretch of work: from a title and a number of frames to ``done(so_many)``."""


def no_phase(_: str, __: int) -> AbstractContextManager[Callable[[int], object]]:
    """Shows nothing."""
    return nullcontext(lambda _: None)


_LOOK_EVERY_S = 0.05  # while the check is waited for
_LAST_WORD_S = 1.0  # for an answer about what was checked when time is over

# The process finds packages where this one does, and in that order: where it starts, no folder of
# packages may come before Python's own modules, for which some have namesakes.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    f"from {decoder_errors.__name__} import main; main()"
)


@dataclass(frozen=True)
class _Errors:
    """Frames looked at, None where the reader does it; numbers and times of those with errors."""

    frames: int | None
    times_ms: Mapping[int, float]


class DamageWatch(Closing):
    """Tells which frames of recorded videos were decoded with errors.

        with DamageWatch(note) as watch:
            source.watch = watch
            for frame in source: ...
            watch.finish()

    Whoever reads calls `begin` and `reached`; leaving the body ends the process.

    Args:
        note: called with a sentence on each video that is damaged or was not checked.
        at_once: begin while frames are read; else when they have been, in `finish`.
        treatment: what becomes of damaged frames, the end of the sentence on them.
    """

    def __init__(
        self, note: Callable[[str], None], *, at_once: bool = True, treatment: str = ""
    ) -> None:
        self._note, self._treatment = note, treatment
        self._read: dict[Path, int] = {}  # frames given to the reader
        self._limits: dict[Path, int] = {}  # frames that are all to be looked at
        self._done: dict[Path, int] = {}
        self._answers: dict[Path, _Errors | str] = {}  # a string: why there is none
        self._said: set[Path] = set()
        self._paths: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the process, the limits and the end
        self._current: tuple[Path, subprocess.Popen[bytes]] | None = None
        self._over, self._at_once = False, at_once
        self._worker = threading.Thread(target=self._work, name="damage watch", daemon=True)

    def begin(self, path: Path) -> None:
        """Frames of this video are being read, or soon will be."""
        if path not in self._read:
            self._read[path] = 0
            self._paths.put(path)
            if self._at_once:
                self._start_worker()

    def reached(self, path: Path, frames: int) -> None:
        """The reader has had so many frames of a video that was begun."""
        self._read[path] = max(self._read[path], frames)

    def damaged(self, path: Path) -> list[int]:
        """Numbers of the frames, of those read, that are known to be damaged."""
        answer = self._answers.get(path)
        if not isinstance(answer, _Errors):
            return []
        return [at for at in sorted(answer.times_ms) if at < self._read[path]]

    @property
    def count(self) -> int | None:
        """Damaged frames of all that were read; None where not all of them could be checked."""
        if not all(self._is_checked(path) for path in self._read):
            return None
        return sum(len(self.damaged(path)) for path in self._read)

    def finish(
        self,
        *,
        phase: Phase = no_phase,
        due: Callable[[], bool] = lambda: False,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait until the frames that were read have been looked at, and say what was found.

        Args:
            phase: shows what is waited for.
            due: asked all the time; once it is true, what is left stays unchecked, which is said.
            stop: called all the time; may raise.
        """
        with self._lock:
            self._limits = dict(self._read)
            self._send_limit()
        if self._read:
            self._start_worker()
        for path in self._read:
            if path not in self._answers:
                with phase(f"checking {path.name} for damage", self._read[path]) as done:
                    self._wait(path, done, due, stop)
            self._say(path)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        with self._lock:
            self._over = True
            if self._current is not None:
                self._current[1].kill()
        self._paths.put(None)
        if self._worker.ident:
            self._worker.join()

    def _wait(
        self,
        path: Path,
        done: Callable[[int], object],
        due: Callable[[], bool],
        stop: Callable[[], None],
    ) -> None:
        waiting = threading.Event()
        while path not in self._answers and not self._over and not due():
            stop()
            waiting.wait(_LOOK_EVERY_S)
            done(min(self._done.get(path, 0), self._read[path]))
        if path in self._answers:
            return
        with self._lock:
            self._over = True  # those that have not begun, never will
            self._limits = dict.fromkeys(self._read, 0)
            self._send_limit()
        for _ in range(round(_LAST_WORD_S / _LOOK_EVERY_S)):
            if path in self._answers or self._current is None or self._current[0] != path:
                return
            waiting.wait(_LOOK_EVERY_S)

    def _is_checked(self, path: Path) -> bool:
        answer = self._answers.get(path)
        if not isinstance(answer, _Errors):
            return False
        return answer.frames is None or answer.frames >= self._read[path]

    def _say(self, path: Path) -> None:
        if path in self._said:
            return
        self._said.add(path)
        answer, read = self._answers.get(path), self._read[path]
        if isinstance(answer, str):
            self._note(f"{path} could not be checked for damage ({answer})")
            return
        checked = read
        if answer is None or not self._is_checked(path):
            checked = answer.frames or 0 if answer else 0
            self._note(
                f"{path}: {checked} of the {counted(read, 'frame')} read were checked for damage, "
                "for more there was no time"
            )
        found = self.damaged(path)
        if answer is not None and found:
            are = "frame was" if checked == 1 else "frames were"
            self._note(
                f"{path}: {len(found)} of {checked} {are} decoded with errors, first at frame "
                f"{found[0]} ({answer.times_ms[found[0]] / 1e3:.1f} s): the recording is damaged "
                f"there{self._treatment}"
            )

    def _start_worker(self) -> None:
        if self._worker.ident is None:
            self._worker.start()

    def _work(self) -> None:
        """Look at one video after the other: what the thread does."""
        while (path := self._paths.get()) is not None:
            with tempfile.TemporaryFile() as complaints:
                try:
                    process = self._start(path, complaints)
                except OSError as error:
                    self._answers[path] = error.strerror or str(error)
                    continue
                if process is None:
                    continue
                answer = self._listen(path, process)
                with self._lock:  # and no limit is sent through pipes that are closed
                    self._current = None
                for pipe in (process.stdin, process.stdout):
                    with suppress(OSError):  # a limit that was not taken up
                        if pipe is not None:
                            pipe.close()
                self._answers[path] = answer or _why(process, complaints)

    def _start(self, path: Path, complaints: IO[bytes]) -> subprocess.Popen[bytes] | None:
        """The process; None where nothing is to be looked at any more."""
        with self._lock:
            if self._over:
                return None
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _CHILD, json.dumps(sys.path), os.path.abspath(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env={**os.environ, **decoder_errors.ENVIRONMENT, "OPENBLAS_NUM_THREADS": "1"},
            )
            self._current = path, process
            self._send_limit()
            return process

    def _send_limit(self) -> None:
        """Tell the process after how many frames to end, if that is known."""
        if self._current is None:
            return
        path, process = self._current
        if path in self._limits and process.stdin is not None:
            with suppress(OSError):  # it has ended
                process.stdin.write(b"%d\n" % self._limits[path])
                process.stdin.flush()

    def _listen(self, path: Path, process: subprocess.Popen[bytes]) -> _Errors | str | None:
        """The process's answer, once it has ended; None if it ended without one."""
        answer: _Errors | str | None = None
        assert process.stdout is not None  # a pipe, above
        for line in process.stdout:
            said: dict[str, Any] = json.loads(line)
            if "why" in said:
                answer = str(said["why"])
            elif "errors" in said:
                answer = _Errors(said["frames"], dict(said["errors"]))
            else:
                self._done[path] = said["frames"]
        process.wait()
        return answer


def _why(process: subprocess.Popen[bytes], complaints: IO[bytes]) -> str:
    """The reason why a process gave no answer."""
    complaints.seek(0)
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    if process.returncode < 0:
        return f"signal {-process.returncode} ended the process that checks it"
    return lines[-1] if lines else f"the process that checks it ended with {process.returncode}"
