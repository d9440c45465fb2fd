"""Results as one table: read from a folder, an archive or an MLflow store."""
