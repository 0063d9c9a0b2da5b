"""Frames worth keeping, collected in the car within a budget."""
