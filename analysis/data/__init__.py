"""Read results, from a folder or an archive, into one table."""
