"""What ends an analysis command in one sentence."""

from __future__ import annotations


class NothingToRead(SystemExit):
    """There is no finished cell to draw; the text says why and what to do."""
