"""The curve of a finished search: the lowest loss so far, over the complete masks that it scored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pruning.core import trace
from pruning.core.complete_masks import is_complete
from pruning.core.mask import Mask
from pruning.core.result import DoneResult
from pruning.search.journal import Journal


def best_losses(folder: Path, result: DoneResult) -> Iterator[tuple[int, float]]:
    """Yield (number of scores, lowest loss so far) after each complete mask that was scored on all samples."""
    mask = Mask.from_json(result["mask"])
    journal = Journal.open(folder / trace.NAME, mask.n_blocks, unit=mask.unit)
    k, budget, best = len(mask.dropped), result["search"].get("budget"), float("inf")
    for number, score in enumerate(journal.scores.values(), start=1):
        if score.of is None and is_complete(score.mask.dropped, k, budget):
            best = min(best, score.loss)
            yield number, best
