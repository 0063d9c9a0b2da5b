"""The training loop: steps, forward and backward passes, precision, memory and time."""
