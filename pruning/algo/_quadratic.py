"""Sets of least quadratic energy: minimise x^T Q x over x in {0, 1}^n with sum x = k.

Both readings of constrained binary optimisation end here. Up to `limit` sets the answer is exact: the blocks are
split into two halves, and for each number of blocks from the left one all pairs of half-sets are priced at once
by a matrix product,

    E(x) = x_A^T Q_AA x_A + x_B^T Q_BB x_B + 2 x_A^T Q_AB x_B

10.5 million sets (n = 32, k = 8) take a fraction of a second. Beyond it, chains of swap annealing run side by
side; a swap keeps sum x = k, so no penalty term is needed, which is what misleads annealers of unconstrained
problems.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Subset: TypeAlias = tuple[int, ...]

CHUNK = 1 << 20  # energies that are held at once
CHAINS, SWEEPS, COLDEST = 64, 200, 1e-3  # annealing: swaps per chain are SWEEPS * n


def least(q: Array, k: int, count: int, limit: int, rng: np.random.Generator) -> tuple[list[Subset], bool]:
    """The `count` sets of least energy for a symmetric Q, best first, and whether they are certainly those.

    Equal energies are in lexicographic order.
    """
    exact = math.comb(len(q), k) <= limit
    return (enumerated(q, k, count) if exact else annealed(q, k, count, rng)), exact


def enumerated(q: Array, k: int, count: int) -> list[Subset]:
    """The `count` best of all sets."""
    half = len(q) // 2
    best: list[tuple[float, Subset]] = []
    for left in range(max(0, k - (len(q) - half)), min(k, half) + 1):
        a, b = _indicators(half, left), _indicators(len(q) - half, k - left)
        own_a, own_b = _energies(q[:half, :half], a), _energies(q[half:, half:], b)
        cross = 2 * a @ q[:half, half:]
        rows = max(1, CHUNK // len(b))
        for start in range(0, len(a), rows):
            part = slice(start, start + rows)
            energies = own_a[part, None] + own_b + cross[part] @ b.T
            for i, j in _smallest(energies, count, best[-1][0] if len(best) == count else math.inf):
                chosen = (*np.flatnonzero(a[start + i]), *(half + np.flatnonzero(b[j])))
                best.append((float(energies[i, j]), tuple(int(c) for c in chosen)))
            best = sorted(best)[:count]
    return [chosen for _, chosen in best]


def _smallest(energies: Array, count: int, below: float) -> Iterable[tuple[int, int]]:
    """Places of the `count` least energies that are not above a bound."""
    places = np.flatnonzero(energies <= below)
    if len(places) > count:
        values = energies.ravel()[places]
        places = places[np.argpartition(values, count - 1)[:count]]
    return [(int(p) // energies.shape[1], int(p) % energies.shape[1]) for p in places]


def _indicators(n: int, size: int) -> Array:
    """All sets of `size` out of n as rows of 0 and 1: (n choose size, n)."""
    rows = np.zeros((math.comb(n, size), n))
    for row, chosen in zip(rows, combinations(range(n), size), strict=True):
        row[list(chosen)] = 1
    return rows


def _energies(q: Array, x: Array) -> Array:
    found: Array = np.einsum("ij,ij->i", x @ q, x)
    return found


def annealed(q: Array, k: int, count: int, rng: np.random.Generator) -> list[Subset]:
    """The best sets found by swap annealing: where chains end after a last descent, and all sets one swap away."""
    orders = rng.permuted(np.tile(np.arange(len(q)), (CHAINS, 1)), axis=1)
    inside, outside = orders[:, :k].copy(), orders[:, k:].copy()
    if outside.size:
        _cool(q, inside, outside, rng)
    found: dict[Subset, float] = {}
    for chosen in {_descended(q, tuple(sorted(map(int, row)))) for row in inside}:
        found |= _around(q, chosen)
    return sorted(found, key=lambda chosen: (found[chosen], chosen))[:count]


def _cool(q: Array, inside: Array, outside: Array, rng: np.random.Generator) -> None:
    """Metropolis swaps of all chains at once while the temperature falls geometrically. Changes the two arrays.

    With the field g = Q x, exchanging i for j costs 2 (g_j - g_i) + Q_ii + Q_jj - 2 Q_ij.
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
    """A set and all that are one swap away, with their energies."""
    members = list(chosen)
    others = [j for j in range(len(q)) if j not in chosen]
    field, diagonal = q[members].sum(axis=0), np.diag(q)
    energy = float(field[members].sum())
    into, out = 2 * field[others] + diagonal[others], diagonal[members] - 2 * field[members]
    costs = out[:, None] + into - 2 * q[np.ix_(members, others)]
    found = {chosen: energy}
    for a, i in enumerate(members):
        for b, j in enumerate(others):
            found[tuple(sorted({*chosen, j} - {i}))] = energy + float(costs[a, b])
    return found


def _descended(q: Array, chosen: Subset) -> Subset:
    """Where the best swap, taken again and again, leads."""
    while True:
        around = _around(q, chosen)
        best = min(around, key=around.__getitem__)
        if best == chosen or around[best] >= around[chosen] - 1e-12 * abs(around[chosen]):
            return chosen
        chosen = best
