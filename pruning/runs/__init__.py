"""One cell: its identity and files, the checks before it starts, and its run from search to result."""
