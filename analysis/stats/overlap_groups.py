"""Groups of masks: their mean overlap, compared with that of groups of random masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pruning.core.mask import Mask

from . import bits, pairing
from .agreement import controlled
from .frames import groups
from .grid import CELL, COMPARISONS
from .overlap import MaskSet
from .removal import masks, n_open

CHUNK = 4_000_000  # numbers in the largest array


def mean_corrected(group: Sequence[Mask], open_blocks: int) -> float:
    """Mean chance-corrected overlap over the compared pairs of a group (see `pairing`)."""
    words = bits.words(group)
    members = MaskSet(words, bits.sizes(words), np.full(len(group), open_blocks))
    return float(np.mean(members.pairs(*pairing.positions(len(group))).corrected))


def group_p(group: Sequence[Mask], open_blocks: int, draws: int = 2000, seed: int = 0) -> float:
    """Monte Carlo probability that a group of random sets has at least the mean Jaccard overlap of `group`.

    A random group has as many sets, and its sets are as large. Pairs share masks, so the p-values of pairs are not
    independent and cannot be combined. Instead, whole groups are drawn at random. With a budget, the masks of a group
    can differ in size.
    """
    sizes = tuple(len(mask.dropped) for mask in group)
    observed = _mean_jaccard(bits.words(group)[None], sizes)[0]
    return float((1 + np.sum(_null(sizes, open_blocks, draws, seed) >= observed - 1e-12)) / (draws + 1))


@lru_cache(maxsize=1024)
def _null(sizes: tuple[int, ...], open_blocks: int, draws: int, seed: int) -> NDArray[np.float64]:
    """Mean Jaccard overlap (draws,) of random groups of sets of these sizes. Groups of equal sizes share it."""
    m, rng = len(sizes), np.random.default_rng(seed)
    at_once = max(1, CHUNK // (m * max(open_blocks, len(pairing.positions(m)[0]) // m + 1)))
    means = []
    for start in range(0, draws, at_once):
        # The draws do not depend on the size of a chunk: the generator is read in the same order.
        order = rng.random((min(at_once, draws - start), m, open_blocks)).argsort(-1)
        chosen = order < np.array(sizes)[:, None]  # uniform subsets
        means.append(_mean_jaccard(bits.packed(chosen), sizes))
    return np.concatenate(means)


def _mean_jaccard(words: bits.Words, sizes: tuple[int, ...]) -> NDArray[np.float64]:
    """Mean Jaccard overlap (draws,) over the compared pairs of sets of these sizes (draws, m, words)."""
    first, second = pairing.positions(words.shape[1])
    shared = bits.shared(words[:, first], words[:, second])
    both = np.array(sizes)[first] + np.array(sizes)[second]
    return np.asarray((shared / np.maximum(both - shared, 1)).mean(axis=1))


def groups_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Groups of masks that differ only in the algorithm, or only in the draw, compared with groups of random masks.

    One row per group, and per seed if searches of several seeds read the same samples: its mean corrected overlap; p,
    the probability that random masks overlap at least as much; and q, which is p adjusted for the false discovery
    rate over all groups.
    """
    rows = []
    for comparison in ("algorithms", "draws"):
        fixed = [c for c in CELL if c not in COMPARISONS[comparison]]
        for cells in _panels(frame, fixed, COMPARISONS[comparison]):
            if len(cells) > 1:
                group, free = masks(cells), int(n_open(cells).iloc[0])
                where = [cells[c].iloc[0] if c in fixed else "" for c in CELL]
                tested = [mean_corrected(group, free), group_p(group, free)]
                rows.append([comparison, *where, len(cells), *tested])
    table = pd.DataFrame(rows, columns=["differ", *CELL, "masks", "corrected", "p"])
    return table.assign(q=controlled(list(table["p"])))


def _panels(frame: pd.DataFrame, fixed: list[str], differing: list[str]) -> Iterator[pd.DataFrame]:
    """Cells that are equal in `fixed`; those of one seed of the search, if seeds are crossed with what differs.

    Masks of several seeds on the same samples are alike because of the samples, which random masks are not.
    """
    for _, cells in groups(frame, [*fixed, "protect_first", "protect_last"]):
        if cells[differing].duplicated().any():
            yield from (part for _, part in groups(cells, "seed"))
        else:
            yield cells
