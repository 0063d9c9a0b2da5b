"""Opening the engine of a model that is to serve from its first frame on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..bundle import Bundle
from ..engines import Engine
from ..errors import BundleError, EngineError
from ..gentle import in_a_gap
from .plans import OpenEngine, open_with_plan
from .self_test import self_test_of


def open_warm(
    open_with: OpenEngine, bundle: Bundle, renewed: Callable[[Bundle], Bundle | None]
) -> Engine:
    """An engine that is open, and has seen two frames.

    Args:
        renewed: the same model elsewhere, where its signatures were renewed while it was opened.

    Raises:
        BundleError, EngineError: it does not open, or fails on a frame.
    """
    try:
        return _open_warm(open_with, bundle)
    except (BundleError, EngineError):
        elsewhere = renewed(bundle)
        if elsewhere is None:
            raise
    return open_warm(open_with, elsewhere, renewed)


def _open_warm(open_with: OpenEngine, bundle: Bundle) -> Engine:
    engine = open_with_plan(open_with, bundle)
    try:
        test = self_test_of(bundle)
        size = (engine.input.height, engine.input.width)
        frame = test.frames[:1] if test is not None else np.zeros((1, *size, 3), np.uint8)
        for _ in range(2):
            in_a_gap()
            engine.infer(frame)
    except BaseException:
        engine.close()
        raise
    return engine
