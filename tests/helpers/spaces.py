"""Spaces of sub-layers, and the swaps of a mask."""

from __future__ import annotations

from collections.abc import Sequence

from pruning.core.mask import Mask, Removal, Space

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


def swaps(mask: Mask, space: Space) -> set[Mask]:
    """The masks of the space that differ by one swap."""
    pairs = ((back, new) for back in mask.dropped for new in space.free(mask.dropped))
    found = {space.drop(*({*mask.dropped} - {back}), new) for back, new in pairs}
    return {swap for swap in found if swap in space}
