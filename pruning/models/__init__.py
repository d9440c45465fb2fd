"""Models: settings, loading, packaged weights, and how blocks are found, skipped and removed."""
