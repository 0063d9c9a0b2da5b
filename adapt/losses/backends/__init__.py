"""Losses from logits at network resolution, without a tensor of the frame's size."""
