"""The Python interface: load or wrap a model, search for a mask, run the masked model, measure it, export it.

The command line uses the same code for samples, searches, forward passes and exports.
"""
