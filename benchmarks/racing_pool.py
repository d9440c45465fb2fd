"""The windows that `benchmarks.racing` searches on. Their loss terms are computed once; every search reads them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from benchmarks.works import SMOLLM2, smollm2
from pruning.calibration.text import Text
from pruning.core.estimate import Estimate
from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.models import loader
from pruning.objective import Loss
from pruning.objective.perplexity import Perplexity
from pruning.search.journal import Journal

POOL, PART, LENGTH = 128, 32, 64  # windows of the pool, and of a file; tokens of a window
Windows = np.ndarray[Any, Any]  # their numbers in the pool
log = logging.getLogger("benchmarks")


@dataclass
class Pool:
    """The loss terms of masks on windows, computed on first use and kept in a file for each part of the pool."""

    parts: Sequence[Journal]

    def terms(self, masks: Sequence[Mask], windows: Windows) -> list[list[float]]:
        """The loss terms of each mask on some windows."""
        for part in np.unique(windows // PART):
            self._complete(int(part), masks)
        slots = [(self.parts[w // PART], w % PART) for w in windows.tolist()]
        return [[journal.scores[mask].samples[index] for journal, index in slots] for mask in masks]

    def _complete(self, number: int, masks: Sequence[Mask]) -> None:
        journal = self.parts[number]
        if missing := [mask for mask in masks if mask not in journal.scores]:
            samples = Text("pydoc", POOL, LENGTH, 0).draw(loader.tokenizer(SMOLLM2))
            part = samples.part(number * PART, (number + 1) * PART)
            for score in Perplexity().bind(_engine(), part)(missing):
                journal.add(score)
                log.info("part %d of the pool: %d masks", number, len(journal.scores))


@cache
def _engine() -> Forward:
    return Forward(smollm2(), compile=True)


@dataclass
class Drawn:
    """The windows of one seed, and the cost of a search on them so far."""

    pool: Pool
    windows: Windows
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
