"""In this process, one cell after the other; a model is loaded once for all its cells."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InProcess:
    """No settings."""
