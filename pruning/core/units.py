"""Numbers with units, for people to read."""

from __future__ import annotations

MEBIBYTE = 1 << 20


def bytes_text(count: int) -> str:
    """A number of bytes as text: `269.1 MB`, `16.06 GB`."""
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"
