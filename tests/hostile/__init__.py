"""Hostile inputs and faults: each is refused, repaired or reported."""
