"""One run: its settings, options, budget, checkpoint and kept files."""
