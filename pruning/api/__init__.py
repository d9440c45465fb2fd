"""The Python interface: load or wrap a model, search for a mask, run the masked model, measure it, export it.

Cells of the command line use the same samples, searches, forward passes and exports.
"""
