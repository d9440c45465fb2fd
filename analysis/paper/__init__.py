"""The paper's published numbers, and tests of its statements on them."""
