"""The masks of lowest quadratic energy x^T Q x, for `cbo` and `cbo_hessian`; x_u is 1 if unit u is removed.

If the space is small enough, the answer is exact. To enumerate sets of k units, the units are split into two
halves A and B. For each number of chosen units in A, one matrix product gives the energies of all pairs of
half-sets (32 units and k = 8 take a fraction of a second):

    E(x) = x_A^T Q_AA x_A + x_B^T Q_BB x_B + 2 x_A^T Q_AB x_B

In larger spaces, annealing chains run in parallel. From each chain's last set, the best swap is repeated until
a local minimum is reached. The result is chosen from these minima and all sets one swap away from them. Each
step of a chain leads to a set of the space, so no penalty term is needed; such a term can lead to worse sets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import combinations, islice
from typing import Any, TypeAlias

import numpy as np

from pruning.core.mask import Budget, Mask, Space

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Rows: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]  # (sets, n): whether a set contains a unit

CHUNK = 1 << 20  # how many energies of pairs of half-sets are in memory at once
EXACT = 100_000_000  # the most sets that are enumerated; in a larger space, annealing chains run
EXACT_ON_BUDGET, BUDGET_CHUNK = 200_000, 8_192  # the same on a budget, and masks per batch
CHAINS, SWEEPS, COLDEST = 64, 200, 1e-3  # annealing: each chain tries SWEEPS * n steps


def minima(q: Array, space: Space, count: int, rng: np.random.Generator) -> tuple[list[Mask], str]:
    """The `count` masks of lowest energy, best first, and text that says from which sets they are chosen.

    The symmetric Q has a row for each unit of `space.fitting()`. Masks of equal energy are in lexicographic order.
    """
    units, budget = space.fitting(), space.budget
    exact = space.size <= (EXACT if budget is None else EXACT_ON_BUDGET)
    if exact and budget is None:
        rows = enumerated(q, space.k, count)
    elif exact:
        rows = _enumerated_on_budget(q, space, count)
    elif budget is None:
        rows = nearest(q, Budget((1,) * len(q), space.k, space.k), swapped_chains(q, space.k, rng), count)
    else:
        own = Budget(tuple(budget.costs[u] for u in units), budget.least, budget.most)
        drawn = [space.filled((), rng.permutation(units).tolist()) for _ in range(CHAINS)]
        start = np.array([[u in mask.dropped for u in units] for mask in drawn])
        rows = nearest(q, own, exchanged_chains(q, own, start, rng), count)
    masks = [space.drop(*(units[r] for r in np.flatnonzero(row))) for row in rows]
    return masks, "of all sets" if exact else "that annealing found"


def energies(q: Array, rows: Rows | Array) -> Array:
    """x^T Q x for each row x."""
    x = rows.astype(float)
    found: Array = np.einsum("ij,ij->i", x @ q, x)
    return found


# Enumeration.


def enumerated(q: Array, k: int, count: int) -> Rows:
    """The `count` sets of k units with the lowest energies, by enumeration of all sets."""
    half = len(q) // 2
    best: list[tuple[float, tuple[int, ...]]] = []
    for left in range(max(0, k - (len(q) - half)), min(k, half) + 1):
        a, b = _indicators(half, left), _indicators(len(q) - half, k - left)
        energy_a, energy_b = energies(q[:half, :half], a), energies(q[half:, half:], b)
        cross = 2 * a @ q[:half, half:]
        rows = max(1, CHUNK // len(b))
        for start in range(0, len(a), rows):
            part = slice(start, start + rows)
            pairs = energy_a[part, None] + energy_b + cross[part] @ b.T
            for i, j in _smallest(pairs, count, best[-1][0] if len(best) == count else math.inf):
                chosen = (*np.flatnonzero(a[start + i]), *(half + np.flatnonzero(b[j])))
                best.append((float(pairs[i, j]), tuple(int(c) for c in chosen)))
            best = sorted(best)[:count]
    return np.array([np.isin(np.arange(len(q)), chosen) for _, chosen in best])


def _smallest(values: Array, count: int, below: float) -> Iterable[tuple[int, int]]:
    """The positions (row, column) of the `count` smallest values. Values greater than `below` are left out."""
    indices = np.flatnonzero(values <= below)
    if len(indices) > count:
        indices = indices[np.argpartition(values.ravel()[indices], count - 1)[:count]]
    return [(int(i) // values.shape[1], int(i) % values.shape[1]) for i in indices]


def _indicators(n: int, size: int) -> Array:
    """All sets of `size` out of n elements as rows of 0 and 1, of shape (n choose size, n)."""
    rows = np.zeros((math.comb(n, size), n))
    for row, chosen in zip(rows, combinations(range(n), size), strict=True):
        row[list(chosen)] = 1
    return rows


def _enumerated_on_budget(q: Array, space: Space, count: int) -> Rows:
    units, masks = space.fitting(), space.masks()
    best: list[tuple[float, Rows]] = []
    while chunk := list(islice(masks, BUDGET_CHUNK)):
        rows = np.array([np.isin(units, mask.dropped) for mask in chunk])
        found = energies(q, rows)
        first = np.argsort(found, kind="stable")[:count]
        best += [(float(found[i]), rows[i]) for i in first]
        best = sorted(best, key=lambda pair: pair[0])[:count]
    return np.array([row for _, row in best])


# Annealing: Metropolis steps in all chains at once, while the temperature falls geometrically.


def swapped_chains(q: Array, k: int, rng: np.random.Generator) -> Rows:
    """The final sets of annealing chains over sets of k units. Each chain starts from a random set.

    With the field g = Q x, replacing unit i by j changes the energy by 2 (g_j - g_i) + Q_ii + Q_jj - 2 Q_ij.
    """
    orders = rng.permuted(np.tile(np.arange(len(q)), (CHAINS, 1)), axis=1)
    inside, outside = orders[:, :k].copy(), orders[:, k:].copy()
    rows, field = np.arange(CHAINS), q[inside].sum(axis=1)  # (chains,) and (chains, n)
    hottest = float(np.std(field)) or 1.0
    for temperature in np.geomspace(hottest, COLDEST * hottest, SWEEPS * len(q) if outside.size else 0):
        a, b = rng.integers(inside.shape[1], size=CHAINS), rng.integers(outside.shape[1], size=CHAINS)
        i, j = inside[rows, a], outside[rows, b]
        rise = 2 * (field[rows, j] - field[rows, i]) + q[i, i] + q[j, j] - 2 * q[i, j]
        taken = rows[rise <= temperature * rng.exponential(size=CHAINS)]
        inside[taken, a[taken]], outside[taken, b[taken]] = j[taken], i[taken]
        field[taken] += q[j[taken]] - q[i[taken]]
    ends = np.zeros((CHAINS, len(q)), dtype=bool)
    np.put_along_axis(ends, inside, values=True, axis=1)
    return ends


def exchanged_chains(q: Array, budget: Budget, rows: Rows, rng: np.random.Generator) -> Rows:
    """The final sets of annealing chains that start from `rows`; every set of a chain meets `budget`."""
    energy = energies(q, rows)
    hottest = float(np.std(rows @ q)) or 1.0
    for temperature in np.geomspace(hottest, COLDEST * hottest, SWEEPS * len(q)):
        moved, valid = exchanges(rows, budget, rng)
        after = energies(q, moved)
        taken = valid & (after - energy <= temperature * rng.exponential(size=len(rows)))
        rows, energy = np.where(taken[:, None], moved, rows), np.where(taken, after, energy)
    return rows


def exchanges(rows: Rows, budget: Budget, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Each set after one random exchange, and whether the exchange is valid.

    In a random order, the first unit outside the set is added. Units leave the set until it costs at most
    `budget.most`. Then other units, each of which would fit alone, are added until the cost is at least
    `budget.least` or the next unit would exceed `budget.most`.
    """
    order = rng.permuted(np.tile(np.arange(rows.shape[1]), (len(rows), 1)), axis=1)
    mixed, cost = np.take_along_axis(rows, order, 1), np.array(budget.costs)[order]
    outside = ~mixed
    new = outside & (np.cumsum(outside, axis=1) == 1)
    spent = (cost * (mixed | new)).sum(axis=1, keepdims=True)
    before = np.cumsum(cost * mixed, axis=1) - cost * mixed  # the cost of the earlier units of the set
    kept = (mixed & (before >= spent - budget.most)) | new
    room = budget.most - (cost * kept).sum(axis=1, keepdims=True)
    fits = outside & ~new & (cost <= room)
    needed = np.cumsum(cost * fits, axis=1) - cost * fits < room - (budget.most - budget.least)
    kept |= fits & needed & (np.cumsum(cost * fits, axis=1) <= room)
    total = (cost * kept).sum(axis=1)
    moved = np.zeros_like(rows)
    np.put_along_axis(moved, order, kept, 1)
    return moved, (total >= budget.least) & (total <= budget.most) & outside.any(axis=1)


def nearest(q: Array, budget: Budget, rows: Rows, count: int) -> Rows:
    """The `count` sets of lowest energy among the minima `descended` from `rows` and the sets `_around` them."""
    near = np.unique(np.concatenate([_around(row, budget) for row in descended(q, budget, rows)]), axis=0)
    return near[np.lexsort((*(~near).T[::-1], energies(q, near)))[:count]]


def descended(q: Array, budget: Budget, rows: Rows) -> Rows:
    """The local minima: from each set, move to the best set `_around` until no move lowers the energy."""
    ends = []
    for row in np.unique(rows, axis=0):
        while True:
            around = _around(row, budget)  # the set itself comes first
            found = energies(q, around)
            best = int(np.argmin(found))
            if found[best] >= found[0] - 1e-12 * abs(found[0]):
                break
            row = around[best]
        ends.append(row)
    return np.unique(np.array(ends), axis=0)


def _around(row: Rows, budget: Budget) -> Rows:
    """The set `row`, and all sets that meet `budget` and differ from it by one unit or one swap, as rows."""
    inside, outside = np.flatnonzero(row), np.flatnonzero(~row)
    back, new = (grid.ravel() for grid in np.meshgrid(inside, outside, indexing="ij"))
    swaps, flips = np.tile(row, (len(back), 1)), row ^ np.eye(len(row), dtype=bool)
    swaps[np.arange(len(back)), back] = False
    swaps[np.arange(len(new)), new] = True
    others = np.concatenate([flips, swaps])
    spent = others @ np.array(budget.costs)
    return np.concatenate([row[None], others[(spent >= budget.least) & (spent <= budget.most)]])
