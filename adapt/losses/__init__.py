"""Losses on low-resolution logits; plain torch references."""
