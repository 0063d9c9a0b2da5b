"""TensorRT plans beside the slots, for models that bring none which fits this machine.

    plans/KEY.plan   of a model's graph, for this GPU and this TensorRT
    plans/timings    how long kernels took, for the next build

A plan is native code, and no signature covers one that was built here. So the slots' state holds
its SHA-256, no other bytes are ever loaded, and none at all where others than root and the user who
runs it may write that state. A plan that is missing, changed or of another machine is passed over,
loudly, for the model's ONNX graph; `plan_building` makes it anew.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..bundle import Artefact, Bundle
from ..engines import Engine
from ..errors import BundleError
from .state import Installed
from .store import STATE_NAME, SlotStore

OpenEngine = Callable[[Bundle], Engine]


def with_plan(bundle: Bundle, plan: Artefact, file: Path) -> Bundle:
    """The bundle with a plan that lies in ``file`` in the place of its own plans."""
    others = tuple(one for one in bundle.manifest.artefacts if one.kind != "tensorrt")
    manifest = bundle.manifest.model_copy(update={"artefacts": (*others, plan)})
    return replace(bundle, manifest=manifest, beside={plan.path: file})


def with_built_plan(store: SlotStore, bundle: Bundle, model: Installed) -> Bundle:
    """The bundle with the plan that was built here for it, if there is one that may be loaded."""
    plan = model.plan
    if plan is None:
        return bundle
    if problem := ownership_problem(store.path):
        logging.getLogger("roadshift").warning("%s: is not loaded: %s", plan.path, problem)
        return bundle
    return with_plan(bundle, plan, store.plan_file(plan))


def ownership_problem(slots: Path) -> str | None:
    """The reason, a sentence, why others could place a plan in these slots; None if they cannot."""
    for path in (slots, slots / STATE_NAME):
        try:
            found = os.stat(path)
        except OSError as error:
            return f"{path}: cannot be looked at ({error.strerror})."
        if found.st_uid not in (0, os.geteuid()):
            return (
                f"{path}: belongs to another user (uid {found.st_uid}), who could have any code "
                "run as a plan; run as that user, or give the slots to root."
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return (
                f"{path}: may be written by others, who could have any code run as a plan; say "
                f"chmod go-w {path}."
            )
    return None


def open_with_plan(open_with: OpenEngine, bundle: Bundle) -> Engine:
    """The engine of a bundle; of its ONNX model, where the plan beside it is missing or changed.

    Raises:
        BundleError, EngineError: neither opens.
    """
    try:
        return open_with(bundle)
    except BundleError as error:
        if not bundle.beside:
            raise
        why = str(error).rstrip(".")
    names = [one for one in bundle.manifest.artefacts if one.path not in bundle.beside]
    manifest = bundle.manifest.model_copy(update={"artefacts": tuple(names)})
    engine = open_with(replace(bundle, manifest=manifest, beside={}))
    engine.reason = f"{engine.reason} Instead of a plan: {why}; roadshift slot build makes it anew."
    logging.getLogger("roadshift").warning(engine.reason)
    return engine
