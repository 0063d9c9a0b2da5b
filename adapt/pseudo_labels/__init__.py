"""Pseudo-labels and the labellers that make, select and keep them."""
