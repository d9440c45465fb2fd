"""The log-likelihoods of all choices of items under several sets, and what follows from them per item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from pruning.calibration.item_files import FIELD, Item
from pruning.calibration.items import TaskItems
from pruning.calibration.samples import Row, Samples
from pruning.calibration.text import start_tokens
from pruning.core.errors import InputError
from pruning.core.mask import Mask

if TYPE_CHECKING:
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


# Means over tasks with intervals: items are resampled within each task, paired over what is compared.

RESAMPLES = 4000
LEVEL = 0.95


class Interval(TypedDict):
    """A mean over tasks, and its 95 percent interval."""

    value: float
    low: float
    high: float


class Difference(TypedDict):
    """A mean difference over the items of one task, and its standard error (None for one item)."""

    value: float
    error: float | None


def interval(values: Mapping[str, Floats], seed: int = 0) -> Interval:
    """The mean over tasks of the mean over items; `values` has one number per item for each task.

    The interval is a percentile bootstrap over items within tasks. If `values` are differences of two policies on
    the same items, it is the paired interval.
    """
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled(rng, of_task) for of_task in values.values()], axis=0)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": mean_over_tasks(values), "low": float(low), "high": float(high)}


def mean_over_tasks(values: Mapping[str, Floats]) -> float:
    """The mean over tasks of the mean over items: each task counts the same."""
    return float(np.mean([of_task.mean() for of_task in values.values()]))


def difference(first: Floats, second: Floats) -> Difference:
    """The paired difference of two policies on the same items of one task."""
    gaps = first - second
    error = float(gaps.std(ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else None
    return {"value": float(gaps.mean()), "error": error}


def _resampled(rng: np.random.Generator, values: Floats) -> Floats:
    """The means of resamples (RESAMPLES,) of the items of one task."""
    n = len(values)
    return np.asarray(values[rng.integers(0, n, (RESAMPLES, n))].mean(axis=1))


# The best static set, the oracle, and what of the oracle's gain is more than chance.
#
# The oracle sees the answers. For each prompt it takes the set that answers best, so it gains over any one set even
# if the sets differ by chance only. Two comparisons say how much of this is chance:
#
# - The same items are asked in a second wording. The oracle chooses on one wording and is judged on the other, and
#   the
#   best static set is treated in the same way. If a set's answers to a prompt are noise, this surviving gain is
#   about
#   0, or below it: a set chosen by noise is no better than the average set.
# - Answers that do not change with the wording can still be mere preferences, such as for long answers. So the
#   surviving gain is computed again with labels drawn at random, with which no set knows anything.

Scores = Mapping[str, ItemScores]  # by task
FIRST = 1e6  # how many nats of margin a right answer outweighs
DRAWS = 50  # random labels


def best_static(scores: Scores) -> int:
    """The set with the highest mean accuracy over tasks; of equal ones, that with the lowest margin."""
    hits = np.mean([of_task.hits.mean(axis=1) for of_task in scores.values()], axis=0)
    margin = np.mean([of_task.margin.mean(axis=1) for of_task in scores.values()], axis=0)
    return int(np.lexsort((margin, -hits))[0])


def best_sets(scores: ItemScores) -> Numbers:
    """For each item, the set that answers it best (items,): a right answer first, then the lowest margin."""
    return np.asarray((FIRST * scores.hits - scores.margin).argmax(axis=0))


def at(values: Floats, chosen: Numbers | int) -> Floats:
    """The values (items,) of the chosen sets, from values (sets, items)."""
    n = values.shape[1]
    return np.asarray(values[np.broadcast_to(chosen, n), np.arange(n)])


@dataclass(frozen=True)
class OracleGain:
    """Gains in accuracy of the oracle over the best static set, per item of each task.

    `apparent`: chosen and judged on one wording. `surviving`: chosen on one wording, judged on the other. `chance`:
    as `surviving`, with random labels; the mean of `DRAWS` draws.
    """

    apparent: dict[str, Floats]
    surviving: dict[str, Floats]
    chance: dict[str, Floats]


def oracle_gain(scores: Scores, reworded: Scores, seed: int = 0) -> OracleGain:
    """The gains of the oracle. Both wordings have the same items in the same order, and take both parts."""
    static, rng = best_static(scores), np.random.default_rng(seed)
    apparent = {task: at(one.hits, best_sets(one)) - at(one.hits, static) for task, one in scores.items()}
    draws = []
    for _ in range(DRAWS):
        labels = {task: one.random_labels(rng) for task, one in scores.items()}
        pair = [{task: one.labelled(labels[task]) for task, one in of.items()} for of in (scores, reworded)]
        draws.append(surviving_gain(*pair))
    chance = {task: np.mean([draw[task] for draw in draws], axis=0) for task in scores}
    return OracleGain(apparent, surviving_gain(scores, reworded), chance)


def surviving_gain(scores: Scores, reworded: Scores) -> dict[str, Floats]:
    """The gain (items,) of choosing on one wording and being judged on the other, by task."""
    static, other = best_static(scores), best_static(reworded)
    found = {}
    for task, first in scores.items():
        second = reworded[task]
        there = at(second.hits, best_sets(first)) - at(second.hits, static)
        back = at(first.hits, best_sets(second)) - at(first.hits, other)
        found[task] = (there + back) / 2
    return found


# The items of each task of a study: those for the search and for the router, and those that are held out.


@dataclass(frozen=True)
class TaskData:
    """One task: its items as token rows, and their prompts. `reworded` are the held-out items in a second wording."""

    name: str
    calibration: Samples
    heldout: Samples
    reworded: Samples | None
    calibration_prompts: tuple[str, ...]
    heldout_prompts: tuple[str, ...]

    def parts(self) -> dict[str, Samples]:
        """The samples by the name of their part."""
        parts = {"calibration": self.calibration, "heldout": self.heldout}
        return parts if self.reworded is None else {**parts, "reworded": self.reworded}


def task_data(items: TaskItems, tokenizer: Any, rewording: str | None) -> TaskData:
    """Draw the items of a task. Raises InputError as `TaskItems.draw` does."""
    drawn, heldout = items.parts(tokenizer)
    return TaskData(
        items.task,
        items.rows(drawn, tokenizer),
        items.rows(heldout, tokenizer),
        None if rewording is None else items.rows(heldout, tokenizer, rewording),
        prompts(items.template, drawn),
        prompts(items.template, heldout),
    )


def prompts(template: str, items: Sequence[Item]) -> tuple[str, ...]:
    """The prompts of items: the template with each question."""
    return tuple(template.replace(FIELD, item.question) for item in items)


def check_apart(tasks: Sequence[TaskData]) -> None:
    """Raise InputError if two tasks have the same items, or if one is chosen on items that another one holds out."""
    for one, other in combinations(tasks, 2):
        if (one.calibration.keys, one.heldout.keys) == (other.calibration.keys, other.heldout.keys):
            raise InputError(
                f"the tasks {one.name} and {other.name} have the same items: remove one of their files."
            )
    for one, other in permutations(tasks, 2):
        if shared := len(one.calibration.keys & other.heldout.keys):
            raise InputError(
                f"{shared} calibration items of the task {one.name} are held-out items of the task {other.name}: "
                "give files that share no items."
            )


# Prompts as token rows, and which blocks a router may run: those that every set keeps.

SHARE = 4  # by default, a router runs at most one block in so many


def prompt_rows(tokenizer: Any, prompts: Sequence[str], most: int | None = None) -> list[Row]:
    """The rows of prompts. Raises InputError if a prompt has fewer than two tokens, or more than `most`."""
    first = start_tokens(tokenizer)
    rows = []
    for prompt in prompts:
        ids = (*first, *tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids)
        if len(ids) < 2:
            raise InputError(f"the prompt {prompt!r} has fewer than two tokens: give a longer one.")
        if most is not None and len(ids) > most:
            raise InputError(
                f"the prompt {prompt[:40]!r}... has {len(ids)} tokens, and the model reads at most {most}: "
                "shorten it."
            )
        rows.append(Row(ids, (len(ids) - 1, len(ids))))
    return rows


def first_blocks(masks: Sequence[Mask], wanted: int | None) -> int:
    """How many blocks at the beginning a router runs: `wanted`, or as many as no mask drops, up to a quarter of all.

    Raises InputError if a mask drops a part of one of the `wanted` blocks.
    """
    n_blocks, per_block = masks[0].n_blocks, masks[0].n_units // masks[0].n_blocks
    kept = min((mask.dropped[0] // per_block for mask in masks if mask.dropped), default=n_blocks)
    if wanted is None:
        return min(kept, n_blocks // SHARE)
    if wanted > kept:
        raise InputError(
            f"router.blocks={wanted}: a set drops block {kept} or a part of it, so at most {kept} blocks can be run "
            f"for all sets: choose {kept} or fewer."
        )
    return wanted
