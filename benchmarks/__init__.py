"""Benchmarks: the engine compared with one forward pass per mask."""
