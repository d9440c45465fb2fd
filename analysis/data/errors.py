"""The error that ends an analysis command with a one-sentence message."""

from __future__ import annotations


class NothingToRead(SystemExit):
    """The requested cells or measurements do not exist or cannot be read. The message says why and what to do."""
