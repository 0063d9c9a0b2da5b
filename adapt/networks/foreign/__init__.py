"""Networks of users: imported by name, tried out, and fitted to the interface."""
