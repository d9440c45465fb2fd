"""One cell: its settings and files, the checks before it starts, and its run from search to result."""
