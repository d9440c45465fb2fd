"""The numbers that the paper published, and tests of its statements on these numbers."""
