"""The record of a run's beginning: what it was asked for, of which files, on what machine.

A resumed run is compared with it before anything is read or written, and goes on as it began: with
as many threads, on which the last bits of every sum depend. The finished bundle keeps its hash, so
that the same command with ``--resume`` finds that nothing is left to do.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...runtime.bundle import Bundle, library_versions, open_bundle
from ...runtime.errors import BundleError, FrameError, TrainingError, arg
from ...runtime.words import counted
from ..data.input_hashes import hash_of, identity_of, learned_from
from ..methods import hashed_settings
from ..run.checksums import (
    DamagedError,
    content_hash,
    read_json_with_checksum,
    write_json_with_checksum,
)
from ..run.config import RunConfig
from ..run.options import RunOptions


class _Beginning(BaseModel):
    """The content of ``run.json``."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    parts: dict[str, str]  # a hash of each part of what was asked for, by name
    content: str  # SHA-256 of the files learned from
    status: str | None  # of their paths, sizes and times of change, cheap to compare
    threads: int = Field(ge=1, le=1 << 16)  # torch's, on a CPU
    machine: str
    versions: dict[str, str]


class RunRecord:
    """A command's run, from its beginning to its end.

    Args:
        options: where it works and how.
        parts: what decides the run besides the files it learns from and the machine, by name, each
            a JSON document.
        files: lists those files.
        kept: the run keeps its frames decoded in its folder, so that it goes on with those whatever
            becomes of the files.
    """

    def __init__(
        self,
        options: RunOptions,
        parts: Mapping[str, Any],
        files: Callable[[], Sequence[Path]],
        *,
        kept: bool,
    ) -> None:
        self.options, self._files, self._kept = options, files, kept
        self._parts = {name: hash_of(part) for name, part in parts.items()}
        self._content: str | None = None

    @property
    def fingerprint(self) -> str:
        """The entries by which the finished bundle says what it was made from."""
        return hash_of([self._parts, self._read_content()])

    def finished(
        self, *, judged: bool = False, allow_networks: Collection[str] = ()
    ) -> Bundle | None:
        """The bundle of this very run, where it is resumed and has finished already.

        Args:
            judged: a bundle that has no verdict is not finished.
            allow_networks: modules that the run's network is built with, see `open_bundle`.
        """
        out, unfinished = self.options.out, self.options.workspace.checkpoint.exists()
        if not self.options.resume or unfinished or not out.exists():
            return None
        try:
            bundle = open_bundle(out, allow_networks=allow_networks)
        except BundleError:
            return None
        made = bundle.manifest.provenance.fingerprint
        if made is None or made != self.fingerprint or (judged and bundle.manifest.verdict is None):
            return None
        self.options.events.note(f"{out}: this run has finished, nothing is left to do")
        return bundle

    @contextmanager
    def under_way(self, device: torch.device) -> Iterator[None]:
        """Compare a resumed run with its beginning, or keep that of a new one; see this module.

        To be entered once the run's folder is there and no other process is in it.

        Raises:
            TrainingError: the run in the folder is another one, or its record is damaged.
            OutputError: the record cannot be written.
        """
        path, before = self.options.workspace.record, torch.get_num_threads()
        try:
            if self.options.resume and self.options.workspace.has_begun:
                self._go_on(path, device)
            else:
                self._begin(path, device)
            yield
        finally:
            torch.set_num_threads(before)

    def _begin(self, path: Path, device: torch.device) -> None:
        beginning = _Beginning(
            parts=self._parts,
            content=self._read_content(),
            status=self._status(),
            threads=torch.get_num_threads(),
            machine=_machine(device),
            versions=library_versions(),
        )
        write_json_with_checksum(path, beginning.model_dump())

    def _go_on(self, path: Path, device: torch.device) -> None:
        note = self.options.events.note
        began = _read(path)
        different = [
            name
            for name in sorted({*self._parts, *began.parts})
            if self._parts.get(name) != began.parts.get(name)
        ]
        if different:
            raise self._another(f"{', '.join(different)}: not as it began")
        if self._kept and self.options.workspace.frame_index.exists():
            self._content = began.content
            if self._status() != began.status:
                note("the frames' files were changed since; the run goes on with what they held")
        elif self._read_content() != began.content:
            raise self._another("the content of its files: not as it began")
        if device.type == "cpu" and torch.get_num_threads() != began.threads:
            note(
                f"the run began with {counted(began.threads, 'thread')} and goes on with as many, "
                f"not with {torch.get_num_threads()}"
            )
            torch.set_num_threads(began.threads)
        elsewhere = _differences(began, device)
        if elsewhere:
            note(
                f"the run began elsewhere ({elsewhere}); its weights may differ in their last bits "
                "from those of a run that was never stopped"
            )

    def _read_content(self) -> str:
        """SHA-256 of the files, which are read once."""
        if self._content is None:
            try:
                self._content = content_hash(self._files(), self.options.events)
            except OSError as error:
                raise FrameError(
                    f"{error.filename}: cannot be read ({error.strerror or error})."
                ) from error
        return self._content

    def _status(self) -> str | None:
        """See `_Beginning`; None where files are gone."""
        try:
            return identity_of(self._files())
        except (OSError, FrameError):
            return None

    def _another(self, what: str) -> TrainingError:
        return TrainingError(
            f"{self.options.workspace.folder}: this run was started with other frames, settings or "
            f"source model ({what}); repeat its command with {arg('resume', True)}, or start anew "
            f"with {arg('overwrite', True)}."
        )


def record_of_adapting(
    options: RunOptions,
    frames: Sequence[str | Path],
    max_frames: int | None,
    config: RunConfig,
    source: str,
    *,
    student: Any = None,
    weights: Sequence[Path] = (),
) -> RunRecord:
    """The record of a run that adapts a model to ``frames``.

    Args:
        source: hash of the source model.
        student: where another network learns, what describes it; ``weights`` are what it starts
            from.
    """
    parts = {
        "source model": source,
        "frames": [[str(Path(frame).resolve()) for frame in frames], max_frames],
        "settings": hashed_settings(config),
        "student": student,
    }

    def files() -> list[Path]:
        return [*learned_from(frames, max_frames), *weights]

    return RunRecord(options, parts, files, kept=True)


def _read(path: Path) -> _Beginning:
    try:
        return _Beginning.model_validate(read_json_with_checksum(path))
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
    except DamagedError as error:
        problem = f"is damaged ({error})"
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        problem = f"is not the record of a run of this version ({key})"
    raise TrainingError(f"{path}: {problem}; delete {path.parent} and start again.")


def _machine(device: torch.device) -> str:
    """Circumstances on which a result's last bits depend, besides threads and versions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _differences(began: _Beginning, device: torch.device) -> str:
    """Changes of machine and versions since the run began; empty: none."""
    now = library_versions()
    found = [f"on {began.machine}, now {_machine(device)}"] * (began.machine != _machine(device))
    found += [
        f"{name} {began.versions.get(name)}, now {now.get(name)}"
        for name in ("torch", "numpy", "opencv", "roadshift")
        if began.versions.get(name) != now.get(name)
    ]
    return ", ".join(found)
