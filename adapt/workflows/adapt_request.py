"""Adapting as a user asks for it: the method, its settings, the gate and the patience that follow.

`adapt_bundle` and `adapt_black_box` carry out what is settled here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...runtime.bundle import Bundle, open_bundle
from ...runtime.errors import ConfigError, RoadshiftError, arg
from ..black_boxes import BoxWiring, Student
from ..judging.judge import choose_gate
from ..methods import adapting_method, choose_method, given_settings, resolve_config
from ..models.loading import pick_device
from ..run.options import RunOptions
from ..training.time_allocation import default_patience_s
from .adaptation import adapt_black_box, adapt_bundle
from .search import search_settings
from .search_grid import search_grid


@dataclass(frozen=True)
class Adapted:
    """The result of `adapt`.

    Attributes:
        bundle: what was made.
        refusal: why the gate does not let it pass; None where it does, or was told to warn.
    """

    bundle: Bundle
    refusal: RoadshiftError | None = None


def adapt(
    source: str | Path,
    frames: Sequence[str | Path],
    options: RunOptions,
    *,
    method: str | None = None,
    file: Path | None = None,
    assignments: Sequence[str] = (),
    seed: int | None = None,
    student: Student | None = None,
    wiring: BoxWiring | None = None,
    search: Mapping[str, Sequence[Any]] | None = None,
    gate: str | None = None,
    older: Sequence[str | Path] = (),
    max_frames: int | None = None,
    allow_networks: Collection[str] = (),
) -> Adapted:
    """Adapt a bundle, or a student of a black box, to unlabelled frames.

    Args:
        source: a bundle's folder, or a black box, see `open_black_box`.
        frames: folders, images and videos.
        options: where the result goes, and how; its patience is chosen here.
        method: unless given, that of ``file``, or else the default.
        file, assignments, seed: settings, see `resolve_config`.
        student, wiring: of a black-box method alone.
        search: values to try by key, of which `search_settings` chooses; see `search_grid`.
        gate: "refuse", "warn" or "off"; None: see `choose_gate`.
        older: frames of conditions that the source model serves, for the gate.
        max_frames: use at most so many, evenly spaced.
        allow_networks: modules whose code the bundle may name, see `open_bundle`.

    Raises:
        ConfigError: options that do not go with the method or with one another.
        RefusedError: of a search no candidate may win.
        RoadshiftError: any other of its subclasses, see `adapt_bundle` and `adapt_black_box`.
    """
    method = choose_method(method, file)
    black_box = adapting_method(method).black_box
    search = search or {}
    config = resolve_config(method, file=file, assignments=assignments, seed=seed)
    student, wiring = student or Student(), wiring or BoxWiring()
    if not black_box and (student, wiring) != (Student(), BoxWiring()):
        only = "label_space input_size initial student_output output colour mean std answers"
        raise ConfigError(
            f"{', '.join(map(arg, ['student', *only.split()]))} and {arg('answer_timeout_s')} are "
            f"for black-box methods; {method} starts from the bundle's own network; "
            f"give {arg('method')} atp_black_box, or leave them out."
        )
    gate = choose_gate(gate, method, black_box, options.events.note)
    if black_box and older:
        raise ConfigError(f"{arg('older')}: a student of a black box is not judged; leave it out.")
    if search and gate == "off":
        raise ConfigError(
            f"{arg('search')}: chooses by what the gate measures, and there is none; leave it out"
            f"{'' if black_box else ', or leave the gate on'}."
        )
    given = [*assignments, *(f"{key}=" for key in search)]
    patience_s = default_patience_s(method, pick_device(options.device), file, given)
    options = replace(options, patience_s=patience_s)
    if black_box:
        return Adapted(
            adapt_black_box(
                str(source),
                frames,
                config,
                options,
                student,
                wiring=wiring,
                max_frames=max_frames,
            )
        )
    candidates = []
    if search:
        fixed = given_settings(method, assignments=assignments)
        read = given_settings(method, file, assignments)
        candidates = search_grid(method, read, search, fixed=fixed, seed=seed)
    incumbent = open_bundle(source, allow_networks=allow_networks, note=options.events.note)
    if candidates:
        adapted = search_settings(
            incumbent, frames, candidates, options, max_frames=max_frames, older=older
        )
    else:
        adapted = adapt_bundle(
            incumbent,
            frames,
            config,
            options,
            max_frames=max_frames,
            gated=gate != "off",
            older=older,
        )
    verdict = adapted.manifest.verdict
    refusal = verdict.error(adapted.path) if verdict and gate == "refuse" else None
    return Adapted(adapted, refusal)
