"""Masks of least quadratic energy x^T Q x in a space; x_u is 1 if unit u is removed.

Without a budget, `_quadratic.py` finds them. On a budget, the number of units differs between masks. If the space has
at most EXACT masks, all of them are compared. Otherwise, chains of annealing run in parallel. Each step of a chain
removes one more unit, gives back random units until the budget is not exceeded, and removes random units that still
fit; if the budget is then not met, the chain stays where it is. So no penalty term is needed.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from pruning.algo._quadratic import CHAINS, COLDEST, SWEEPS, Array, least
from pruning.core.mask import Mask
from pruning.core.space import Space
from pruning.core.unit_costs import Budget

Rows: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]  # (sets, n): whether a set has a unit

EXACT = 200_000  # masks of a budget that are enumerated
CHUNK = 8_192  # masks whose energies are computed at once


def minima(
    q: Array, space: Space, count: int, limit: int, rng: np.random.Generator
) -> tuple[list[Mask], bool]:
    """The `count` masks of least energy, best first, and whether the answer is exact.

    Q has a row for each unit of `space.fitting()`. Without a budget, at most `limit` masks are enumerated; on one, at
    most EXACT. Masks of equal energy are in lexicographic order.
    """
    units = space.fitting()
    if space.budget is None:
        chosen, exact = least(q, space.k, count, limit, rng)
        return [space.drop(*(units[r] for r in ranks)) for ranks in chosen], exact
    if exact := space.size <= min(limit, EXACT):
        return enumerated(q, space, count), exact
    costs = np.array([space.budget.costs[u] for u in units])
    start = np.array([[u in mask.dropped for u in units] for mask in _drawn(space, rng)])
    rows = annealed(q, costs, space.budget, start, rng)
    near = np.unique(
        np.concatenate(
            [_around(row, costs, space.budget) for row in descended(q, costs, space.budget, rows)]
        ),
        axis=0,
    )
    order = np.lexsort((*(~near).T[::-1], energies(q, near)))[:count]
    return [space.drop(*(units[r] for r in np.flatnonzero(near[i]))) for i in order], exact


def enumerated(q: Array, space: Space, count: int) -> list[Mask]:
    """The `count` masks of least energy, by enumeration of the space."""
    position, masks = {u: r for r, u in enumerate(space.fitting())}, space.masks()
    best: list[tuple[float, Mask]] = []
    while chunk := list(islice(masks, CHUNK)):
        rows = np.zeros((len(chunk), len(q)), dtype=bool)
        for row, mask in zip(rows, chunk, strict=True):
            row[[position[u] for u in mask.dropped]] = True
        found = energies(q, rows)
        first = np.argsort(found, kind="stable")[:count]
        best = sorted([*best, *((float(found[i]), chunk[i]) for i in first)], key=lambda pair: pair[0])[
            :count
        ]
    return [mask for _, mask in best]


def energies(q: Array, rows: Rows) -> Array:
    """x^T Q x for each row x."""
    x = rows.astype(float)
    found: Array = np.einsum("ij,ij->i", x @ q, x)
    return found


def _drawn(space: Space, rng: np.random.Generator) -> list[Mask]:
    units = space.fitting()
    return [space.filled((), rng.permutation(units).tolist()) for _ in range(CHAINS)]


def annealed(q: Array, costs: Array, budget: Budget, rows: Rows, rng: np.random.Generator) -> Rows:
    """The final sets of Metropolis chains that start from `rows`, while the temperature falls geometrically."""
    energy = energies(q, rows)
    hottest = float(np.std(rows @ q)) or 1.0
    for temperature in np.geomspace(hottest, COLDEST * hottest, SWEEPS * len(q)):
        moved, valid = proposed(rows, costs, budget, rng)
        after = energies(q, moved)
        taken = valid & (after - energy <= temperature * rng.exponential(size=len(rows)))
        rows, energy = np.where(taken[:, None], moved, rows), np.where(taken, after, energy)
    return rows


def proposed(rows: Rows, costs: Array, budget: Budget, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """A random exchange for each set, and whether the result meets the budget.

    Units are in random order. The first unit outside the set is added. Of the set, the first units are given back
    until the rest costs at most `most`. Then the first other units that cost no more than what is left are added as
    long as their sum does.
    """
    order = rng.permuted(np.tile(np.arange(rows.shape[1]), (len(rows), 1)), axis=1)
    mixed, cost = np.take_along_axis(rows, order, 1), costs[order]
    outside = ~mixed
    new = outside & (np.cumsum(outside, axis=1) == 1)
    spent = (cost * (mixed | new)).sum(axis=1, keepdims=True)
    before = np.cumsum(cost * mixed, axis=1) - cost * mixed  # what the units of the set before this one cost
    kept = (mixed & (before >= spent - budget.most)) | new
    room = budget.most - (cost * kept).sum(axis=1, keepdims=True)
    fits = outside & ~new & (cost <= room)
    needed = np.cumsum(cost * fits, axis=1) - cost * fits < room - (budget.most - budget.least)
    kept |= fits & needed & (np.cumsum(cost * fits, axis=1) <= room)
    total = (cost * kept).sum(axis=1)
    moved = np.zeros_like(rows)
    np.put_along_axis(moved, order, kept, 1)
    return moved, (total >= budget.least) & (total <= budget.most) & outside.any(axis=1)


def descended(q: Array, costs: Array, budget: Budget, rows: Rows) -> Rows:
    """Each set after the best swaps of two units, until no swap that stays in the budget lowers the energy."""
    ends = []
    for row in np.unique(rows, axis=0):
        while True:
            around = _around(row, costs, budget)  # the set itself comes first
            found = energies(q, around)
            best = int(np.argmin(found))
            if found[best] >= found[0] - 1e-12 * abs(found[0]):
                break
            row = around[best]
        ends.append(row)
    return np.unique(np.array(ends), axis=0)


def _around(row: Rows, costs: Array, budget: Budget) -> Rows:
    """A set and all sets within the budget that differ by one unit or by a swap of two units, as rows."""
    inside, outside = np.flatnonzero(row), np.flatnonzero(~row)
    back, new = (grid.ravel() for grid in np.meshgrid(inside, outside, indexing="ij"))
    swaps, flips = np.tile(row, (len(back), 1)), row ^ np.eye(len(row), dtype=bool)
    swaps[np.arange(len(back)), back] = False
    swaps[np.arange(len(new)), new] = True
    others = np.concatenate([flips, swaps])
    spent = others @ costs
    return np.concatenate([row[None], others[(spent >= budget.least) & (spent <= budget.most)]])
