"""A study as a command: the cells that it asks for, how they run, and what it prints."""
