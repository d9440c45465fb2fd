"""One cell: its identity and files, what is checked before it starts, and its run from search to result."""
