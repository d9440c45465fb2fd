"""Hostile inputs: each is refused, repaired or reported."""
