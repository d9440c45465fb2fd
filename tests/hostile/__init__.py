"""Hostile inputs and surroundings: each case is a line, and each gets one clear sentence."""
