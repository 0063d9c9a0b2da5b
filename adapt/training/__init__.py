"""The training loop: steps, passes, precision, memory and time."""
