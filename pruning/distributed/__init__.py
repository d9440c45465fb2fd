"""Several processes (ranks) that run one cell together: where they meet, and what they exchange."""
