"""Kinds of files by suffix: pictures and videos that are read here, and others that hold some."""

from __future__ import annotations

import cv2

_EVERYWHERE = {".png", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".bmp", ".dib", ".tif", ".tiff"}
_EVERYWHERE |= {".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".ras", ".sr"}
_WITH_SOME_BUILDS = {".jp2", ".avif"}  # what this OpenCV encodes, it decodes

IMAGE_SUFFIXES = frozenset(
    _EVERYWHERE | {suffix for suffix in _WITH_SOME_BUILDS if cv2.haveImageWriter(f"a{suffix}")}
)

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".qt", ".3gp", ".3g2", ".f4v", ".flv"}
    | {".ts", ".mts", ".m2ts", ".m2t", ".mpg", ".mpeg", ".m2v", ".vob", ".mxf", ".wmv", ".asf"}
    | {".divx", ".dav", ".ogv", ".h264", ".264", ".h265", ".265", ".hevc", ".mjpeg", ".mjpg"}
    | {".y4m", ".mk3d"}
)
WRITTEN_VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi")
"""Those of `VIDEO_SUFFIXES` that results are written to."""

UNREAD_IMAGE_SUFFIXES = frozenset(
    (_WITH_SOME_BUILDS - IMAGE_SUFFIXES)
    | {".heic", ".heif", ".exr", ".hdr", ".pfm", ".pam", ".gif", ".apng", ".jxl", ".j2k", ".jpx"}
    | {".tga", ".ico", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"}
    | {".raf", ".raw", ".yuv", ".nv12", ".dds", ".jls", ".thm"}
)
UNREAD_VIDEO_SUFFIXES = frozenset(
    {".lrv", ".insv", ".360", ".braw", ".r3d", ".rm", ".rmvb", ".mod", ".tod", ".dv", ".ivf"}
    | {".nut", ".ogg", ".ogm", ".swf", ".wtv"}
)

BAG_SUFFIXES = frozenset({".bag", ".mcap", ".db3"})
"""Of files that hold camera messages among others."""
