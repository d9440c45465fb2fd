"""The command line: schemas for Hydra, its callbacks, and the command that repeats a recorded cell."""
