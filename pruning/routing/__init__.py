"""Sets of units for tasks: scores of items under all sets, the oracle (each item's best set), and the router.

Source: PuDDing (arXiv 2502.04348). A "set" contains the units that one mask removes; each task has one set.
"""
