"""Checks of published masks: compare the papers' numbers with this program's, and explain the gaps."""
