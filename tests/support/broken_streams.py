"""Descriptors that cannot be written to."""

from __future__ import annotations

import os


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def without_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def closed() -> int:
    """The stream that `guard_streams` puts where the shell closed standard output."""
    return os.open(os.devnull, os.O_RDONLY)


BROKEN = (full, without_reader, closed)
