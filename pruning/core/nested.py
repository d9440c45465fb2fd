"""Nested settings and records as flat names: `calibration.samples` for the key `samples` of `calibration`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of each leaf; names are flat and start with `path`. An empty mapping is a leaf."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
