"""Judging of an adapted model against the one in the car, without labels."""
