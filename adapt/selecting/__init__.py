"""Frames worth labelling: which ones, and archives with pre-labels for the tools that label."""
