"""Video files: read with an account of what is damaged, written to survive a kill."""
