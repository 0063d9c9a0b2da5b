"""Is an adapted model better than the one in the car? Judged without labels."""
