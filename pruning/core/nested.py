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


def texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name, text) for each text at any depth, in lists too. The keys of a mapping are texts with its name."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield name, str(key)
            yield from texts(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item, name)
