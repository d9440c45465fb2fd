"""Measure what racing and lazy rounds save, and how often a search with them chooses another mask than one without.

python -m benchmarks.racing [SEEDS]

Greedy search on SmolLM2 by perplexity, on windows of 64 tokens. With k = 4, each seed takes a quarter, a half or the
whole of 128 windows and shuffles them; with k = 6, it draws half of them. The loss terms of a mask are computed once
and kept in files, so more seeds cost little. The cost of a search is the work that the engine would do: for each
sample, one block forward for each distinct prefix of the batch's masks that ends in a kept block, and one projection
to the vocabulary for each mask.
Writes benchmarks/racing.json. Rows that it has with at least as many seeds are not run again.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.run import SMOLLM2, smollm2
from pruning.algo.stepwise import Greedy
from pruning.calibration.text import Text
from pruning.core import storage
from pruning.core.mask import Mask, Space
from pruning.core.scoring import Estimate, Racing
from pruning.engine.forward import Forward
from pruning.objective import Loss
from pruning.objective.likelihood import Perplexity
from pruning.search.driver import Problem, solve
from pruning.search.journal import Journal

HEAD = 8.0  # SmolLM2's projection to its vocabulary has as many weights as 8 blocks
POOL, PART, LENGTH = 128, 32, 64  # windows of the pool, and of a file; tokens of a window
RESULTS = Path(__file__).parent / "racing.json"
Windows = np.ndarray[Any, Any]  # their numbers in the pool
log = logging.getLogger("benchmarks")


def shuffled(samples: int, seed: int) -> Windows:
    """A quarter, a half or the whole of the pool, in random order."""
    first = samples * (seed % (POOL // samples))
    return first + np.random.default_rng(seed).permutation(samples)


def drawn(samples: int, seed: int) -> Windows:
    """Random windows of the whole pool."""
    return np.random.default_rng(seed).permutation(POOL)[:samples]


# The number of samples, how they are chosen, and k
DESIGNS: tuple[tuple[int, Callable[[int, int], Windows], int], ...] = (
    (128, shuffled, 4),
    (64, shuffled, 4),
    (32, shuffled, 4),
    (64, drawn, 6),
)


def main() -> None:
    """Measure and print a row for each number of samples and each risk, with and without lazy rounds."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    folder = Path("results") / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    parts = [Journal.open(folder / f"racing_{number}.jsonl", 30) for number in range(POOL // PART)]
    rows = storage.read_json(RESULTS) if RESULTS.exists() else []
    for (samples, choose, k), delta, lazy in product(DESIGNS, (0.01, 0.05), (None, 0.05)):
        row: dict[str, Any] = {"samples": samples, "windows": choose.__name__, "k": k}
        row |= {"delta": delta, "lazy": lazy}
        if any(row.items() <= old.items() and old["seeds"] >= seeds for old in rows):
            continue
        rows = [old for old in rows if not row.items() <= old.items()]
        rows.append(measure(parts, row | {"seeds": seeds}, choose))
        log.info("%s", rows[-1])
        storage.write_json(RESULTS, rows)


def measure(
    parts: Sequence[Journal], row: dict[str, Any], choose: Callable[[int, int], Windows]
) -> dict[str, Any]:
    """Search each seed's windows without both, and as a row of results says. Returns the row with its results."""
    equal, rows = 0, []
    space, racing = Space(30, row["k"]), Racing(row["delta"])
    for seed in range(row["seeds"]):
        full, part = (DrawnWindows(parts, choose(row["samples"], seed)) for _ in range(2))
        equal += full.search(space, Racing(), None) == part.search(space, racing, row["lazy"])
        work = [cost.blocks + HEAD * cost.heads for cost in (full, part)]
        rows.append((part.heads / full.heads, full.blocks / part.blocks, work[0] / work[1]))
    paid, blocks, saved = np.mean(rows, axis=0)
    return row | {
        "masks_equal": equal / row["seeds"],
        "evaluations_paid": round(float(paid), 3),
        "block_forwards_ratio": round(float(blocks), 2),
        "work_ratio": round(float(saved), 2),
    }


@dataclass
class DrawnWindows:
    """The windows of one seed, and the cost of a search on them so far. `pool` has a journal for each part."""

    pool: Sequence[Journal]
    windows: Windows
    blocks: float = 0.0
    heads: float = 0.0
    _parts: dict[tuple[int, int], Loss] = field(default_factory=dict)

    def search(self, space: Space, racing: Racing, lazy: float | None) -> Mask:
        """Run one search on the windows."""
        problem = Problem(Greedy(lazy=lazy), space, 0, racing)
        return solve(problem, self, Journal(None, space.n_blocks), lambda *_: None).score.mask

    @property
    def whole(self) -> Loss:
        """The loss over all windows."""
        return self.part(0, len(self.windows))

    def part(self, start: int, stop: int) -> Loss:
        """The loss over the windows from `start` to `stop`, in the order of the seed."""

        def terms(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
            windows = self.windows[start:stop]
            for number in np.unique(windows // PART).tolist():
                _complete(self.pool[number], number, masks)
            self.blocks += block_forwards(masks) * (stop - start)
            self.heads += len(masks) * (stop - start)
            for mask in masks:
                yield (
                    mask,
                    [self.pool[w // PART].scores[mask].samples[w % PART] for w in windows.tolist()],
                    1.0,
                )

        return Loss(Estimate((1.0,) * (stop - start), (0,) * (stop - start)), terms)


def block_forwards(masks: Sequence[Mask]) -> int:
    """The number of block forwards that the engine runs on each sample for a batch of masks."""
    prefixes = {(index, tuple(i for i in mask.dropped if i < index)) for mask in masks for index in mask.kept}
    return len(prefixes)


def _complete(journal: Journal, number: int, masks: Sequence[Mask]) -> None:
    """Compute the loss terms that a part's journal does not have."""
    if missing := [mask for mask in masks if mask not in journal.scores]:
        samples = Text("pydoc", POOL, LENGTH, 0).draw(SMOLLM2.tokenizer)
        part = samples.part(number * PART, (number + 1) * PART)
        for score in Perplexity().bind(_engine(), part)(missing):
            journal.add(score)
            log.info("part %d of the pool: %d masks", number, len(journal.scores))


@cache
def _engine() -> Forward:
    return Forward(smollm2(), compile=True)


if __name__ == "__main__":
    main()
