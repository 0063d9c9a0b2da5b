"""Figures of the papers on frames of one's own: values, pictures of them, and a page with both."""
