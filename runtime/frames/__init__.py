"""Frames from folders, image files, videos, cameras and streams."""

from .source import Frame, FrameSource, open_frames

__all__ = ["Frame", "FrameSource", "open_frames"]
