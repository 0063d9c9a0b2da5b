"""Standard output, standard error and signals of a command."""
