"""Frames through an engine: hand-over, pacing, and sinks for what comes out."""

from .runner import Pipeline, Result

__all__ = ["Pipeline", "Result"]
