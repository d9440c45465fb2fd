"""The log-likelihoods of all choices of items under several sets, and what follows from them per item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pruning.core.mask import Mask

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.engine.forward import Forward

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ItemScores:
    """`sums` (sets, rows): log-likelihoods in nats. A row is a choice of an item, with `tokens` tokens.

    `item` numbers the items from 0; the rows of an item are neighbours. `right` says which choice is right.
    """

    sums: Floats
    tokens: Numbers
    item: Numbers
    right: NDArray[np.bool_]

    @property
    def count(self) -> int:
        """The number of items."""
        return len(self._starts)

    @cached_property
    def means(self) -> Floats:
        """The mean log-likelihood per token of each choice (sets, rows)."""
        return np.asarray(self.sums / self.tokens)

    @cached_property
    def loglikelihood(self) -> Floats:
        """The mean log-likelihood per token of the right answers (sets, items)."""
        return self.means[:, self.right]

    @cached_property
    def hits(self) -> Floats:
        """1 if the right answer has the highest mean, 0 if not, 1/n if n answers share it (sets, items)."""
        highest = np.maximum.reduceat(self.means, self._starts, axis=1)
        sharing = np.add.reduceat((self.means == highest[:, self.item]).astype(float), self._starts, axis=1)
        return np.asarray((self.loglikelihood == highest) / sharing)

    @cached_property
    def margin(self) -> Floats:
        """The terms of the objective `margin` (sets, items): lower is better."""
        wrong = np.add.reduceat(self.means, self._starts, axis=1) - self.loglikelihood
        return np.asarray(wrong / (self._choices - 1) - self.loglikelihood)

    def target(self, name: str) -> Floats:
        """What a router predicts (sets, items), higher being better: "loglikelihood", or "margin" negated."""
        return self.loglikelihood if name == "loglikelihood" else -self.margin

    def take(self, sets: Sequence[int]) -> ItemScores:
        """The scores under some of the sets."""
        return ItemScores(self.sums[list(sets)], self.tokens, self.item, self.right)

    def random_labels(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Labels of which each choice of an item is right with the same probability."""
        right = np.zeros(len(self.item), dtype=bool)
        right[self._starts + rng.integers(0, self._choices)] = True
        return right

    def labelled(self, right: NDArray[np.bool_]) -> ItemScores:
        """The same answers, judged by other labels."""
        return ItemScores(self.sums, self.tokens, self.item, right)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file holds."""
        return {"sums": self.sums, "tokens": self.tokens, "item": self.item, "right": self.right}

    @cached_property
    def _starts(self) -> Numbers:
        return np.flatnonzero(np.diff(self.item, prepend=-1))

    @cached_property
    def _choices(self) -> Numbers:
        """The number of choices of each item."""
        return np.diff(np.append(self._starts, len(self.item)))


def score_items(forward: Forward, samples: Samples, masks: Sequence[Mask]) -> ItemScores:
    """Score all items under all masks, over the same kind of units, in one walk through the model."""
    distinct = list(dict.fromkeys(masks))
    found = {mask: values for mask, values, _ in forward.loglikelihoods(samples.rows, distinct)}
    rows = samples.rows
    numbers = np.repeat(np.arange(samples.count), [len(unit) for unit in samples.units])
    return ItemScores(
        np.array([found[mask] for mask in masks]),
        np.array([row.span[1] - row.span[0] for row in rows]),
        numbers,
        np.array([bool(row.right) for row in rows]),
    )
