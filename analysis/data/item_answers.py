"""The answers of every cell's mask to every item of an accuracy, so that item noise can be computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pruning.core.result import DoneResult, read_result

from ..stats.kept_terms import hits, kept_terms

Answers = NDArray[np.float64]


@dataclass(frozen=True)
class ItemAnswers:
    """For each task, how right each cell answered each item (cells, items). `note` says why there are none."""

    tasks: dict[str, Answers] = field(default_factory=dict)
    note: str = ""

    def take(self, rows: NDArray[np.int64]) -> ItemAnswers:
        """The answers of some cells."""
        return ItemAnswers({name: answers[rows] for name, answers in self.tasks.items()}, self.note)


def answers(results: Path, cells: Sequence[str], tasks: Sequence[str]) -> ItemAnswers:
    """The answers of finished cells to the items of tasks (`acc/<task>`), in the order of the cells.

    There are none if some cell's answers were not kept, or if the cells of a task were measured on different items.
    """
    read = cache(lambda cell: cast(DoneResult, read_result(results / cell)))
    found = {}
    for task in tasks:
        every = [_hits(results, read(cell), task) for cell in cells]
        if lacking := sum(each is None for each in every):
            return ItemAnswers(
                note=f"the answers to single items were not kept in {lacking:,} of {len(cells):,} cells"
            )
        digests = {read(cell)["evaluation"]["data"].get(task) for cell in cells}
        known = [each for each in every if each is not None]
        if len(digests) > 1 or len({len(each) for each in known}) > 1:
            return ItemAnswers(note=f"cells were measured on different items of {task}")
        found[task] = np.array(known)
    return ItemAnswers(found)


def _hits(results: Path, result: DoneResult, task: str) -> Answers | None:
    terms = kept_terms(results, result, task)
    return None if terms is None else hits(terms)


def of_frame(results: Path, frame: pd.DataFrame, tasks: Sequence[str]) -> ItemAnswers:
    """The answers of the cells of a frame, row by row."""
    return answers(results, [str(cell) for cell in frame["cell"]], tasks)
