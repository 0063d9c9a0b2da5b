"""Fixtures that tests of exports share with others."""

from run_clock import clock  # noqa: F401 - a fixture
