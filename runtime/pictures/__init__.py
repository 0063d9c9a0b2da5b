"""Picture files, decoded strictly, and the names and sizes they go by."""
