"""Where the export tests find what they share."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # export_cases
sys.path.insert(0, str(Path(__file__).parents[1] / "adapt"))  # "tiny_network:build"
