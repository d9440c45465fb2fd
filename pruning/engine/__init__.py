"""Forward passes under many masks at once: batching, shared prefixes, memory, log-probabilities, cost."""
