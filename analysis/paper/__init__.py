"""The paper's published numbers, and tests of the paper's statements on these numbers."""
