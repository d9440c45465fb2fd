"""Benchmarks: the engine against one forward pass per mask, side by side."""
