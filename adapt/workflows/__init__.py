"""Workflows: adapt, train, import, compare and reproduce, from bundle to bundle."""
