"""Replace an attribute for the time of a context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MISSING = object()


@contextmanager
def swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of an object or a class. On exit, restore its old value, or delete it if there was none."""
    saved = owner.__dict__.get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name) if saved is _MISSING else setattr(owner, name, saved)
