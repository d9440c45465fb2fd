"""Run cells in this process, one after the other; each model is loaded once for all its cells."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InProcess:
    """The launcher that runs cells in this process; it has no settings."""
