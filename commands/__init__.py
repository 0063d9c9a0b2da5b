"""The commands: one file each, from options to typed values to one call of a workflow."""
