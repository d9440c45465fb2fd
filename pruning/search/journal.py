"""The journal of a cell's scores, and the store through which a cell reads other cells' journals.

A score depends on (model, revision, dtype, objective, calibration samples), not on the cell that computed it.
For example, one-shot and the first round of greedy need the same scores. So the store consists of all journals. Only
the cell itself writes to its `trace.jsonl`. An empty file `scores/<score key>/<cell>` means that the cell's journal
belongs to that key, and all cells with the same key read this journal. So the store needs no locks and no copies of
scores.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from pruning.core import atomic_files
from pruning.core.errors import DamagedError, ForeignError, InputError
from pruning.core.estimate import Estimate
from pruning.core.mask import Mask
from pruning.core.score import Score
from pruning.core.trace import NAME, TraceLine, append_trace, read_trace
from pruning.distributed import collectives
from pruning.search.score_index import ScoreIndex

log = logging.getLogger(__name__)


@dataclass
class Journal:
    """The scores of one cell, in the order in which the search needed them.

    For each mask, only the score over the most samples is kept. `paid` maps each mask to the number of samples on
    which this cell itself has scored the mask. If `path` is None, the journal is only in memory.
    """

    path: Path | None
    n_blocks: int
    unit: str = "block"
    scores: dict[Mask, Score] = field(default_factory=dict)
    paid: dict[Mask, int] = field(default_factory=dict)

    @classmethod
    def open(
        cls, path: Path, n_blocks: int, estimate: Estimate | None = None, unit: str = "block"
    ) -> Journal:
        """Read the journal of an earlier run.

        An incomplete last line is cut off; any other bad line raises DamagedError. With an `estimate`, so does a line
        whose loss is not that of its terms. It is not repaired, because nobody knows which of the two is wrong. If
        there are several ranks, only the first rank reads the file.
        """
        return collectives.on_first(lambda: cls._read(path, n_blocks, estimate, unit))

    @classmethod
    def _read(cls, path: Path, n_blocks: int, estimate: Estimate | None, unit: str) -> Journal:
        journal = cls(path, n_blocks, unit)
        atomic_files.mend(path)
        for entry in read_trace(path):
            score = None if entry.line is None else _score(entry.line, n_blocks, unit)
            if score is None:
                raise DamagedError(
                    f"{path}, line {entry.number} is damaged: remove the line, or remove the file to start again."
                )
            if estimate is not None and (wrong := _contradiction(score, estimate)):
                raise DamagedError(
                    f"{path}, line {entry.number} contradicts itself: {wrong}. Remove the line, and its loss is "
                    "computed again."
                )
            if score.exceeds(journal.scores.get(score.mask)):
                journal._take(score)
        return journal

    def add(self, score: Score) -> None:
        """Append a score if it covers more samples than the known score of its mask.

        On return, the score is on disk.
        """
        if score.exceeds(self.scores.get(score.mask)):
            if self.path is not None and collectives.is_first():
                append_trace(self.path, score.to_line())
            self._take(score)

    def _take(self, score: Score) -> None:
        old = self.scores.get(score.mask)
        known, spent = (len(old.samples), old.seconds) if old is not None else (0, 0.0)
        if score.seconds > spent:
            self.paid[score.mask] = self.paid.get(score.mask, 0) + len(score.samples) - known
        self.scores[score.mask] = score


@dataclass
class Store:
    """The scores that other cells with the same score key have computed. Lines that were read are not read again.

    `name` is that of the journals in the cells' folders.

    With an `estimate`, a line whose loss is not that of its terms is skipped.
    """

    results: Path
    key: str
    cell: str
    n_blocks: int
    share: bool = True
    unit: str = "block"
    estimate: Estimate | None = None
    name: str = NAME
    _scores: dict[Mask, Score] = field(default_factory=dict)

    def of(self, name: str, estimate: Estimate | None = None) -> Store:
        """The store of other journals of the same cells."""
        return replace(self, name=name, estimate=estimate, _scores={})

    def claim(self) -> None:
        """Register this cell's journal under `key`. Raises ForeignError if it is registered under another key."""
        collectives.on_first(self._claim)

    def _claim(self) -> None:
        own, registered = (
            self.results / self.cell / self.name,
            [*(self.results / "scores").glob(f"*/{self.cell}")],
        )
        if not registered and own.exists() and own.stat().st_size:
            raise ForeignError(
                f"{own} is not registered in {self.results / 'scores'}, so its model and samples are not known: copy "
                "the whole results folder, or move the cell's folder away."
            )
        for other in registered:
            if other.parent.name != self.key:
                if not (self.results / self.cell / self.name).exists():
                    other.unlink()  # the folder has been moved away
                    continue
                raise ForeignError(
                    f"{self.results / self.cell} holds a journal of other calibration samples, of another revision "
                    "of the model or with another forward.compile: set that as before, move the folder away, or "
                    "choose another with paths.results=DIR."
                )
        pointer = self.results / "scores" / self.key / self.cell
        pointer.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.touch(pointer)

    def find(self, masks: Sequence[Mask]) -> list[Score]:
        """Other cells' scores of these masks: for each mask, the score over the most samples, if any.

        The `seconds` of these scores are 0.
        """
        if not self.share:
            return []
        if wanted := [mask for mask in masks if self._can_grow(mask)]:
            for path in self._index.refresh():
                _skip(path)
            for mask in wanted:
                self._read(mask)
        return [self._scores[mask] for mask in masks if mask in self._scores]

    def _can_grow(self, mask: Mask) -> bool:
        return mask not in self._scores or self._scores[mask].of is not None

    def _read(self, mask: Mask) -> None:
        """Keep the score of a mask over the most samples, among those in the lines that were not read before."""
        for path, line in self._index.take(mask.dropped):
            score = None if line is None else _score(line, self.n_blocks, self.unit)
            if (
                score is None
                or score.mask != mask
                or (self.estimate and _contradiction(score, self.estimate))
            ):
                _skip(path)
            elif score.exceeds(self._scores.get(mask)):
                self._scores[mask] = replace(score, seconds=0.0)
            if not self._can_grow(mask):
                return

    @cached_property
    def _index(self) -> ScoreIndex:
        return ScoreIndex(self.results, self.results / "scores" / self.key, self.cell, self.name)


def _skip(path: Path) -> None:
    log.warning("%s: skipped a damaged line", path)


def _score(line: TraceLine, n_blocks: int, unit: str) -> Score | None:
    """The score in a line, or None if the line names a unit that the model does not have."""
    try:
        return Score.from_line(line, n_blocks, unit)
    except InputError:
        return None


def _contradiction(score: Score, estimate: Estimate) -> str:
    """What in a score contradicts itself or the samples, in words; empty if nothing does."""
    terms, most = len(score.samples), estimate.count
    if terms > most or (score.of or terms) != most:
        return f"it has {terms} terms of {score.of or terms} samples, and the cell has {most}"
    loss = estimate.mean(score.samples)
    # Earlier versions may have added the terms up in another order.
    if not math.isclose(loss, score.loss, rel_tol=1e-6, abs_tol=1e-9):
        return f"its loss is {score.loss:.9g}, and its terms give {loss:.9g}"
    return ""


@dataclass(frozen=True)
class KnownScores:
    """The scores that are already known: the scores in the cell's journal and, if there is a store, in the store.

    `own_bounds` (None: in memory) and `others_bounds` are the same for lower bounds of scores; see `bounding.py`.
    """

    journal: Journal
    store: Store | None = None
    own_bounds: Journal | None = None
    others_bounds: Store | None = None

    @cached_property
    def bounds(self) -> Journal:
        """The lower bounds of scores that the cell has computed."""
        return self.own_bounds or Journal(None, self.journal.n_blocks, self.journal.unit)

    def find(self, masks: Sequence[Mask]) -> list[Score]:
        """Those scores of the masks that other cells have computed."""
        return [] if self.store is None else self.store.find(masks)

    def find_bounds(self, masks: Sequence[Mask]) -> list[Score]:
        """Those lower bounds of the masks' scores that other cells have computed; equal on all ranks."""
        store = self.others_bounds
        return [] if store is None else collectives.on_first(lambda: store.find(masks))
