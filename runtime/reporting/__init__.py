"""Reports: one self-contained HTML page about models, a model card, a bill of materials."""

from __future__ import annotations
