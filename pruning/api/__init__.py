"""The front door for Python: load or wrap a model, search a mask, run it, measure it, export it.

Everything here is also what a cell of the command line runs: the same samples, searches, forward passes and exports.
"""
