"""Sets of units for tasks: scores of all items under all sets, the oracle, and the router.

Source: PuDDing (arXiv 2502.04348). A "set" contains the units that one mask removes; each task has one set.
"""
