"""The paper's published numbers, and what they say about its statements."""
