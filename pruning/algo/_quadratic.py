"""Sets of least quadratic energy: minimise x^T Q x over x in {0, 1}^n with sum x = k.

`cbo` and `cbo_hessian` both use it. If there are at most `limit` sets, the answer is exact. To find it, the blocks
are split into two halves A and B. For each number of chosen blocks in A, one matrix product gives the energies of all
pairs of half-sets:

    E(x) = x_A^T Q_AA x_A + x_B^T Q_BB x_B + 2 x_A^T Q_AB x_B

10.5 million sets (n = 32, k = 8) take a fraction of a second. If there are more sets, chains of swap annealing run in
parallel. A swap keeps sum x = k, so no penalty term is needed. Annealers of unconstrained problems need a penalty
term, and this term can lead to worse sets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import combinations, islice
from typing import Any, TypeAlias

import numpy as np

from pruning.core.mask import Budget, Mask, Space

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Subset: TypeAlias = tuple[int, ...]

CHUNK = 1 << 20  # number of energies held in memory at once
CHAINS, SWEEPS, COLDEST = 64, 200, 1e-3  # annealing: each chain tries SWEEPS * n swaps


def least(q: Array, k: int, count: int, limit: int, rng: np.random.Generator) -> tuple[list[Subset], bool]:
    """The `count` sets of least energy for a symmetric Q, best first, and whether the answer is exact.

    Sets of equal energy are in lexicographic order.
    """
    exact = math.comb(len(q), k) <= limit
    return (enumerated(q, k, count) if exact else annealed(q, k, count, rng)), exact


def enumerated(q: Array, k: int, count: int) -> list[Subset]:
    """The `count` sets of least energy, by enumeration of all sets."""
    half = len(q) // 2
    best: list[tuple[float, Subset]] = []
    for left in range(max(0, k - (len(q) - half)), min(k, half) + 1):
        a, b = _indicators(half, left), _indicators(len(q) - half, k - left)
        energy_a, energy_b = _energies(q[:half, :half], a), _energies(q[half:, half:], b)
        cross = 2 * a @ q[:half, half:]
        rows = max(1, CHUNK // len(b))
        for start in range(0, len(a), rows):
            part = slice(start, start + rows)
            energies = energy_a[part, None] + energy_b + cross[part] @ b.T
            for i, j in _smallest(energies, count, best[-1][0] if len(best) == count else math.inf):
                chosen = (*np.flatnonzero(a[start + i]), *(half + np.flatnonzero(b[j])))
                best.append((float(energies[i, j]), tuple(int(c) for c in chosen)))
            best = sorted(best)[:count]
    return [chosen for _, chosen in best]


def _smallest(energies: Array, count: int, below: float) -> Iterable[tuple[int, int]]:
    """The positions (row, column) of the `count` least energies. Energies above `below` are left out."""
    indices = np.flatnonzero(energies <= below)
    if len(indices) > count:
        values = energies.ravel()[indices]
        indices = indices[np.argpartition(values, count - 1)[:count]]
    return [(int(i) // energies.shape[1], int(i) % energies.shape[1]) for i in indices]


def _indicators(n: int, size: int) -> Array:
    """All sets of `size` out of n elements as rows of 0 and 1: (n choose size, n)."""
    rows = np.zeros((math.comb(n, size), n))
    for row, chosen in zip(rows, combinations(range(n), size), strict=True):
        row[list(chosen)] = 1
    return rows


def _energies(q: Array, x: Array) -> Array:
    energies: Array = np.einsum("ij,ij->i", x @ q, x)
    return energies


def annealed(q: Array, k: int, count: int, rng: np.random.Generator) -> list[Subset]:
    """The `count` sets of least energy that swap annealing found, best first.

    From the final set of each annealing chain, the best swaps lead down to a local minimum. The result is chosen from
    these minima and all sets that are one swap away from a minimum.
    """
    orders = rng.permuted(np.tile(np.arange(len(q)), (CHAINS, 1)), axis=1)
    inside, outside = orders[:, :k].copy(), orders[:, k:].copy()
    if outside.size:
        _cool(q, inside, outside, rng)
    energies: dict[Subset, float] = {}
    for chosen in {_descended(q, tuple(sorted(map(int, row)))) for row in inside}:
        energies |= _around(q, chosen)
    return sorted(energies, key=lambda chosen: (energies[chosen], chosen))[:count]


def _cool(q: Array, inside: Array, outside: Array, rng: np.random.Generator) -> None:
    """Make Metropolis swaps in all chains at once while the temperature falls geometrically.

    `inside` and `outside` are changed in place. With the field g = Q x, replacing i by j changes the energy by
    2 (g_j - g_i) + Q_ii + Q_jj - 2 Q_ij.
    """
    rows, steps = np.arange(CHAINS), SWEEPS * len(q)
    field = q[inside].sum(axis=1)  # (chains, n)
    hottest = float(np.std(field)) or 1.0
    for temperature in np.geomspace(hottest, COLDEST * hottest, steps):
        a, b = rng.integers(inside.shape[1], size=CHAINS), rng.integers(outside.shape[1], size=CHAINS)
        i, j = inside[rows, a], outside[rows, b]
        cost = 2 * (field[rows, j] - field[rows, i]) + q[i, i] + q[j, j] - 2 * q[i, j]
        taken = rows[cost <= temperature * rng.exponential(size=CHAINS)]
        inside[taken, a[taken]], outside[taken, b[taken]] = j[taken], i[taken]
        field[taken] += q[j[taken]] - q[i[taken]]


def _around(q: Array, chosen: Subset) -> dict[Subset, float]:
    """The energies of a set and of all sets that are one swap away."""
    members = list(chosen)
    others = [j for j in range(len(q)) if j not in chosen]
    field, diagonal = q[members].sum(axis=0), np.diag(q)
    energy = float(field[members].sum())
    into, out = 2 * field[others] + diagonal[others], diagonal[members] - 2 * field[members]
    costs = out[:, None] + into - 2 * q[np.ix_(members, others)]
    energies = {chosen: energy}
    for a, i in enumerate(members):
        for b, j in enumerate(others):
            energies[tuple(sorted({*chosen, j} - {i}))] = energy + float(costs[a, b])
    return energies


def _descended(q: Array, chosen: Subset) -> Subset:
    """Make the best swap until no swap lowers the energy; return this local minimum."""
    while True:
        around = _around(q, chosen)
        best = min(around, key=around.__getitem__)
        if best == chosen or around[best] >= around[chosen] - 1e-12 * abs(around[chosen]):
            return chosen
        chosen = best


# Masks of least quadratic energy x^T Q x in a space; x_u is 1 if unit u is removed.
#
# Without a budget, `_quadratic.py` finds them. On a budget, the number of units differs between masks. If the space
# has at most EXACT masks, all of them are compared. Otherwise, chains of annealing run in parallel. Each step of a
# chain removes one more unit, gives back random units until the budget is not exceeded, and removes random units
# that still fit; if the budget is then not met, the chain stays where it is. So no penalty term is needed.

Rows: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]  # (sets, n): whether a set has a unit

EXACT = 200_000  # masks of a budget that are enumerated
MINIMA_CHUNK = 8_192  # masks whose energies are computed at once


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
        return enumerated_minima(q, space, count), exact
    costs = np.array([space.budget.costs[u] for u in units])
    start = np.array([[u in mask.dropped for u in units] for mask in _drawn(space, rng)])
    rows = annealed_minima(q, costs, space.budget, start, rng)
    near = np.unique(
        np.concatenate(
            [_around_minima(row, costs, space.budget) for row in descended(q, costs, space.budget, rows)]
        ),
        axis=0,
    )
    order = np.lexsort((*(~near).T[::-1], energies(q, near)))[:count]
    return [space.drop(*(units[r] for r in np.flatnonzero(near[i]))) for i in order], exact


def enumerated_minima(q: Array, space: Space, count: int) -> list[Mask]:
    """The `count` masks of least energy, by enumeration of the space."""
    position, masks = {u: r for r, u in enumerate(space.fitting())}, space.masks()
    best: list[tuple[float, Mask]] = []
    while chunk := list(islice(masks, MINIMA_CHUNK)):
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


def annealed_minima(q: Array, costs: Array, budget: Budget, rows: Rows, rng: np.random.Generator) -> Rows:
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
            around = _around_minima(row, costs, budget)  # the set itself comes first
            found = energies(q, around)
            best = int(np.argmin(found))
            if found[best] >= found[0] - 1e-12 * abs(found[0]):
                break
            row = around[best]
        ends.append(row)
    return np.unique(np.array(ends), axis=0)


def _around_minima(row: Rows, costs: Array, budget: Budget) -> Rows:
    """A set and all sets within the budget that differ by one unit or by a swap of two units, as rows."""
    inside, outside = np.flatnonzero(row), np.flatnonzero(~row)
    back, new = (grid.ravel() for grid in np.meshgrid(inside, outside, indexing="ij"))
    swaps, flips = np.tile(row, (len(back), 1)), row ^ np.eye(len(row), dtype=bool)
    swaps[np.arange(len(back)), back] = False
    swaps[np.arange(len(new)), new] = True
    others = np.concatenate([flips, swaps])
    spent = others @ costs
    return np.concatenate([row[None], others[(spent >= budget.least) & (spent <= budget.most)]])
