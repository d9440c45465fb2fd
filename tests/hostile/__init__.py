"""Inputs and faults of a hostile user: each gives a clear error or is repaired."""
