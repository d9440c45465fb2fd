"""Build the space of masks that a ratio or a number of units asks for. This module does not use torch."""

from __future__ import annotations

from collections.abc import Sequence

from pruning.core import unit_costs
from pruning.core.errors import InputError
from pruning.core.space import Space


def check_size(ratio: float | None, k: int | None) -> None:
    """Raise InputError unless exactly one of `ratio` and `k` is given and its value is possible for some model."""
    if (ratio is None) == (k is None):
        if k is None:
            raise InputError("give either ratio or k, not both: neither is given.")
        raise InputError(
            f"give either ratio or k, not both: both are given (ratio={ratio}, k={k}). If an experiment sets the "
            "ratio, ratio=null removes it."
        )
    if ratio is not None and not 0 < ratio < 1:
        raise InputError(f"ratio={ratio:g} is not a fraction of the blocks: choose one above 0 and below 1.")
    if k is not None and k < 1:
        raise InputError(f"k={k} removes no block: choose 1 or more.")


def block_count(n_blocks: int, ratio: float | None, k: int | None) -> int:
    """Number of blocks to remove: `k` itself, or round(ratio * n_blocks).

    Raises InputError if `check_size` does, and if round(ratio * n_blocks) is 0 or all blocks of several.
    """
    check_size(ratio, k)
    if ratio is None:
        assert k is not None
        return k
    rounded = round(ratio * n_blocks)
    if rounded == 0:
        raise InputError(
            f"ratio={ratio:g} of {n_blocks} blocks rounds to no block: "
            f"choose at least {1 / n_blocks:.3f}, or give k=1."
        )
    if rounded == n_blocks > 1:
        raise InputError(
            f"ratio={ratio:g} of {n_blocks} blocks rounds to all of them: choose at most "
            f"{(n_blocks - 1) / n_blocks:.3f}, or give k={n_blocks - 1}."
        )
    return rounded


def space(n_blocks: int, ratio: float | None, k: int | None, first: int = 0, last: int = 0) -> Space:
    """The space of whole blocks; `first` blocks at the start and `last` blocks at the end are protected."""
    return Space(n_blocks, block_count(n_blocks, ratio, k), protected_blocks(n_blocks, first, last))


def sublayer_space(
    n_blocks: int,
    ratio: float | None,
    k: int | None,
    costs: Sequence[float],
    kinds: str = "am",
    first: int = 0,
    last: int = 0,
) -> Space:
    """The space of sub-layers of some `kinds`: `a` for attention, `m` for MLPs, `am` for both.

    With a `ratio`, the removed sub-layers have this share of the `costs` of all 2N sub-layers, as close as the costs
    allow. With `k`, k of them are removed, whatever they cost.

    Raises InputError if the ratio or k cannot be reached.
    """
    check_size(ratio, k)
    blocks = protected_blocks(n_blocks, first, last)
    protected = frozenset(u for u in range(2 * n_blocks) if u // 2 in blocks or "am"[u % 2] not in kinds)
    if ratio is None:
        assert k is not None
        return Space(n_blocks, k, protected, "sublayer")
    return cost_space(n_blocks, ratio, costs, protected, "sublayer")


def cost_space(
    n_blocks: int, ratio: float, costs: Sequence[float], protected: frozenset[int], unit: str
) -> Space:
    """The space of units with a share `ratio` of the `costs` of all; there is a cost for each unit of the model.

    Raises InputError if the unprotected units cannot reach the ratio.
    """
    free = [i for i in range(len(costs)) if i not in protected]
    budget = unit_costs.budget(costs, ratio, free)
    return Space(n_blocks, unit_costs.most_units(budget, free), protected, unit, budget)


def protected_blocks(n_blocks: int, first: int, last: int) -> frozenset[int]:
    """The first and the last blocks that are kept. Raises InputError if these numbers are impossible."""
    if first < 0 or last < 0:
        raise InputError(f"protect.first={first} and protect.last={last}: neither may be negative.")
    if first + last >= n_blocks > 0:
        raise InputError(
            f"protect.first={first} and protect.last={last} protect all of {n_blocks} blocks: "
            f"choose numbers with a sum below {n_blocks}."
        )
    return frozenset(range(first)) | frozenset(range(n_blocks - last, n_blocks))
