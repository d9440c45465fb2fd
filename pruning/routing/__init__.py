"""Sets of units for tasks: scores of all items under all sets, the oracle, and a router from a prompt to a set.

Source: PuDDing (arXiv 2502.04348). A "set" is what a mask removes; there is one per task.
"""
