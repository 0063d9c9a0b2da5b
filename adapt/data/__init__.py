"""Frames to learn from: decoded once, cropped, augmented and mixed."""
