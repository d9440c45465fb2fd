"""A command: the cells that it asks for, how they are run, and what it prints."""
