"""Checks against published masks: the papers' numbers, this program's numbers, and what explains a gap."""
