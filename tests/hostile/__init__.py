"""Hostile inputs: each is refused in one sentence, and nothing is lost."""
