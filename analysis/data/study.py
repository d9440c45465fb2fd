"""A study as a command asks for it: its cells, its title, the journals, and which of its files are damaged."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from pruning.core.trace import TraceLine

from .cell_filter import Only
from .errors import NothingToRead
from .item_answers import ItemAnswers, of_frame
from .journals import Journals, journals
from .load import done, load
from .mlflow_store import folder
from .side_files import damaged
from .title import describe


@dataclass(frozen=True)
class AskedStudy:
    """The cells that a command selects. A property raises NothingToRead if no selected cell is finished."""

    results: Path | str
    study: str | None
    only: Only = field(default_factory=dict)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All cells, including missing, failed and damaged cells."""
        return load(self.results, self.study, self.only)

    @cached_property
    def title(self) -> str:
        """The title line of every figure."""
        return describe(self.frame, self.study, self.only)

    @cached_property
    def journals(self) -> Journals:
        """The journals of the finished cells."""
        return journals(self.results, done(self.frame))

    @property
    def traces(self) -> dict[str, list[TraceLine]]:
        """The scored masks of each finished cell."""
        return self.journals.traces

    @property
    def lines(self) -> dict[str, list[TraceLine]]:
        """As `traces`, with the partial scores of races."""
        return self.journals.lines

    def without(self, objectives: Collection[str]) -> AskedStudy:
        """The same study without the cells of some objectives. No file is read again.

        Raises NothingToRead if no finished cell is left.
        """
        frame = self.frame[~self.frame["objective"].isin(objectives)].reset_index(drop=True)
        if done(frame).empty:
            raise NothingToRead(f"there are no finished cells but those of {', '.join(sorted(objectives))}.")
        kept = replace(self)
        vars(kept).update(frame=frame, journals=self.journals)
        return kept

    def answers(self, tasks: Sequence[str]) -> ItemAnswers:
        """The answers of the finished cells to the items of tasks (`acc/<task>`)."""
        return of_frame(folder(self.results), done(self.frame), tasks)

    @property
    def damages(self) -> list[str]:
        """A text for each damaged file. Journals are included only if they have been read."""
        results = [str(text) for text in self.frame["damage"].dropna()]
        read = self.journals.damages if "journals" in self.__dict__ else []
        return [*results, *read, *self._damaged_beside]

    @cached_property
    def _damaged_beside(self) -> list[str]:
        return damaged(folder(self.results), done(self.frame)["cell"])
