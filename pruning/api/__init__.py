"""The front door for Python: load or wrap a model, search a mask, run it, measure it, export it.

A cell of the command line uses the same samples, searches, forward passes and exports.
"""
