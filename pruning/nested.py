"""Settings and records as flat names: `calibration.samples` for what stands in a dictionary within another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Names such as `model.path`, behind `path`, and their values, in the order of the dictionaries."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
