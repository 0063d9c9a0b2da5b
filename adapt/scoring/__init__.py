"""Scores of a model on frames without labels."""
