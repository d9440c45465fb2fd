"""A short way to make spaces of sub-layers."""

from __future__ import annotations

from collections.abc import Sequence

from pruning.core.mask import Removal, Space

UNITS = {"am": "sublayer", "a": "attention", "m": "mlp"}


def sublayer_space(
    n_blocks: int,
    ratio: float | None,
    k: int | None,
    costs: Sequence[float],
    kinds: str = "am",
    first: int = 0,
    last: int = 0,
) -> Space:
    """The space of sub-layers whose letters are in `kinds`: a for attention, m for MLP."""
    return Removal(ratio, k, UNITS[kinds], first=first, last=last).space(n_blocks, costs)
