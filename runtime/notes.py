"""Sentences that a caller should know, where it gives no place of its own for them."""

from __future__ import annotations

import logging


def log_note(sentence: str) -> None:
    """Log ``sentence`` as a warning of the logger ``roadshift``."""
    logging.getLogger("roadshift").warning(sentence)
