"""Roadshift: source-free adaptation of driving-scene segmentation models, on the vehicle."""

__version__ = "0.1.0"
