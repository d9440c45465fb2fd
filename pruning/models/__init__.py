"""Models: settings, loading, packaged weights, the blocks of a model and how they are skipped or removed."""
