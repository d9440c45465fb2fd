"""The error that ends an analysis command with a one-sentence message."""

from __future__ import annotations


class NothingToRead(SystemExit):
    """There are no finished cells, or no such measurements. The message says why and what to do."""
