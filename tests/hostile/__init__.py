"""Hostile inputs, a line a case."""
