"""Places at night, each drawn when a test first asks for it: no test file draws while collected."""

from __future__ import annotations

from functools import cache

import numpy as np
from roadshift.scenes import render_scene


@cache
def night_scene(seed: int) -> np.ndarray:
    """The place of that seed, 320x160."""
    return render_scene(seed, "night", 320, 160).image
