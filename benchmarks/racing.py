"""Measure what racing and lazy rounds save, and how often a search with them chooses another mask than one without.

python -m benchmarks.racing [SEEDS]

The search is greedy with k = 4 on SmolLM2; the objective is perplexity. The search runs on a quarter, a half or the
whole of a pool of 128 windows of 64 tokens. Each seed takes one quarter or half (or the whole), and shuffles its
windows. The loss terms of a mask are computed once and kept in files, one file per quarter. The searches with and
without racing read these files, so more seeds cost little. The cost of a search is the work that the engine would do.
For each sample, this work is one block forward for each distinct prefix of the batch's masks that ends in a kept
block, and one projection to the vocabulary for each mask.
Writes benchmarks/racing.json.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.works import SMOLLM2, smollm2
from pruning.algo.greedy import Greedy
from pruning.calibration.text import Text
from pruning.core import atomic_files
from pruning.core.estimate import Estimate
from pruning.core.mask import Mask
from pruning.core.space import Space
from pruning.engine.forward import Forward
from pruning.models import loader
from pruning.objective import Loss
from pruning.objective.perplexity import Perplexity
from pruning.search.driver import Problem, solve
from pruning.search.journal import Journal, KnownScores
from pruning.search.racing import Racing

POOL, QUARTER, LENGTH, SPACE = 128, 32, 64, Space(30, 4)
HEAD = 8.0  # SmolLM2's projection to its vocabulary has as many weights as 8 blocks
RESULTS = Path(__file__).parent / "racing.json"
log = logging.getLogger("benchmarks")


@dataclass
class Pool:
    """The loss terms of masks on windows. The terms on a quarter are computed on first use and kept in a file."""

    quarters: Sequence[Journal]

    def terms(self, masks: Sequence[Mask], windows: np.ndarray[Any, Any]) -> list[list[float]]:
        """The loss terms of each mask on some windows."""
        for quarter in np.unique(windows // QUARTER):
            self._complete(int(quarter), masks)
        slots = [(self.quarters[w // QUARTER], w % QUARTER) for w in windows.tolist()]
        return [[journal.scores[mask].samples[index] for journal, index in slots] for mask in masks]

    def _complete(self, quarter: int, masks: Sequence[Mask]) -> None:
        journal = self.quarters[quarter]
        if missing := [mask for mask in masks if mask not in journal.scores]:
            samples = Text("pydoc", POOL, LENGTH, 0).draw(loader.tokenizer(SMOLLM2))
            part = samples.part(quarter * QUARTER, (quarter + 1) * QUARTER)
            for score in Perplexity().bind(Forward(smollm2()), part)(missing):
                journal.add(score)
                log.info("pool, quarter %d: %d masks", quarter, len(journal.scores))


@dataclass
class Drawn:
    """The windows of one seed, and the cost of a search on them so far."""

    pool: Pool
    windows: np.ndarray[Any, Any]
    blocks: float = 0.0
    heads: float = 0.0
    _parts: dict[tuple[int, int], Loss] = field(default_factory=dict)

    @property
    def whole(self) -> Loss:
        """The loss over all windows."""
        return self.part(0, len(self.windows))

    def part(self, start: int, stop: int) -> Loss:
        """The loss over the windows from `start` to `stop`, in the order of the seed."""

        def terms(masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
            self.blocks += block_forwards(masks) * (stop - start)
            self.heads += len(masks) * (stop - start)
            for mask, values in zip(masks, self.pool.terms(masks, self.windows[start:stop]), strict=True):
                yield mask, values, 1.0

        return Loss(Estimate((1.0,) * (stop - start), (0,) * (stop - start)), terms)


def block_forwards(masks: Sequence[Mask]) -> int:
    """The number of block forwards that the engine runs on each sample for a batch of masks."""
    prefixes = {(index, tuple(i for i in mask.dropped if i < index)) for mask in masks for index in mask.kept}
    return len(prefixes)


def search(
    pool: Pool, windows: np.ndarray[Any, Any], racing: Racing, lazy: float | None
) -> tuple[Mask, Drawn]:
    """Run one search on some windows. Returns the chosen mask and the windows with the search's cost."""
    losses = Drawn(pool, windows)
    known = KnownScores(Journal(None, SPACE.n_blocks))
    solution = solve(Problem(Greedy(lazy=lazy), SPACE, 0, racing), losses, known, lambda *_: None)
    return solution.score.mask, losses


def measure(pool: Pool, samples: int, seeds: int, racing: Racing, lazy: float | None) -> dict[str, Any]:
    """Search each seed's windows without both, and with racing and perhaps lazy rounds. Returns a row of results."""
    equal, rows = 0, []
    for seed in range(seeds):
        first = samples * (seed % (POOL // samples))
        windows = first + np.random.default_rng(seed).permutation(samples)
        plain, full = search(pool, windows, Racing(), None)
        raced, part = search(pool, windows, racing, lazy)
        equal += plain == raced
        rows.append((part.heads / full.heads, full.blocks / part.blocks, _work(full) / _work(part)))
    paid, blocks, work = np.mean(rows, axis=0)
    return {
        "samples": samples,
        "seeds": seeds,
        "delta": racing.delta,
        "lazy": lazy,
        "masks_equal": equal / seeds,
        "evaluations_paid": round(float(paid), 3),
        "block_forwards_ratio": round(float(blocks), 2),
        "work_ratio": round(float(work), 2),
    }


def _work(cost: Drawn) -> float:
    return cost.blocks + HEAD * cost.heads


def main() -> None:
    """Measure and print a row for each number of samples and each risk, with and without lazy rounds."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    folder = Path("results") / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    names = [folder / f"racing_{quarter}.jsonl" for quarter in range(POOL // QUARTER)]
    pool = Pool([Journal.open(name, SPACE.n_blocks) for name in names])
    rows = []
    for samples, delta, lazy in product((128, 64, 32), (0.01, 0.05), (None, 0.05)):
        rows.append(measure(pool, samples, seeds, Racing(delta), lazy))
        log.info("%s", rows[-1])
        atomic_files.write_json(RESULTS, rows)


if __name__ == "__main__":
    main()
