"""Several processes (ranks) that run one cell together: how they find each other and what they exchange."""
