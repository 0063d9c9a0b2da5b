"""Folders of data sets: which files are frames, and which are labels of them."""
