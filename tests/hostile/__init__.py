"""Hostile inputs: each gets a sentence, and nothing is lost."""
