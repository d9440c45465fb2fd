"""Hostile inputs: one module per topic, one line per case."""
