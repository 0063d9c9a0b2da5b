"""Losses on low-resolution logits: what is summed over the pixels, and how much of it."""
