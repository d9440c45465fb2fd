"""Benchmarks, which compare the engine with one forward pass per mask, and checks on GPUs."""
