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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from pruning.core import storage
from pruning.core.errors import DamagedError, ForeignError, InputError
from pruning.core.mask import Mask
from pruning.core.scoring import (
    NAME,
    Estimate,
    Score,
    TraceLine,
    read_line,
    read_masks,
    read_trace,
)
from pruning.engine import collectives
from pruning.objective import Loss

log = logging.getLogger(__name__)


# Scores that are known, or computed.

# Called after each score, and after each bound of a score. The arguments are the number of masks scored so far, on
# all samples or fewer, the lowest full loss among the masks that remove most blocks, and how many these remove.
Watch = Callable[[int, float, int], None]


class Losses(Protocol):
    """The loss that is minimised, over all samples or a part of them; see `pruning.objective.Calibrated`."""

    @property
    def whole(self) -> Loss:
        """The loss over all samples."""
        ...

    def part(self, start: int, stop: int) -> Loss:
        """The loss over the samples from number `start` to number `stop` - 1."""
        ...


@dataclass
class ScoreBook:
    """The scores that a search needs, by mask. A score is computed only if no cell has computed it."""

    losses: Losses
    known: KnownScores
    watch: Watch
    asked: dict[Mask, None] = field(default_factory=dict)
    count: float = 0.0  # losses that the search has asked for, repeats included
    best: dict[int, float] = field(default_factory=dict)  # number of removed blocks -> lowest full loss

    @property
    def journal(self) -> Journal:
        """This cell's journal."""
        return self.known.journal

    @property
    def samples(self) -> int:
        """The number of samples of a full score."""
        return self.losses.whole.estimate.count

    def scores(self, masks: Sequence[Mask], samples: int | None = None) -> list[Score]:
        """Scores over the first `samples` samples (None: all). Only scores that no cell has yet are computed."""
        wanted = self._wanted(samples)
        self.look_up(masks, wanted)
        missing: dict[int, dict[Mask, None]] = {}
        for mask in masks:
            if (known := self._samples_known(mask)) < wanted:
                missing.setdefault(known, {})[mask] = None
        for known, group in missing.items():
            for mask, terms, seconds in self.losses.part(known, wanted).terms(list(group)):
                self._note(self._joined(mask, terms, seconds))
        return [self.first(self.journal.scores[mask], wanted) for mask in masks]

    def look_up(self, masks: Sequence[Mask], wanted: int) -> None:
        """Note the scores over `wanted` samples that other cells have computed.

        A search that scores whole masks takes no score that a race of another cell has put together from parts: it is
        rounded differently, and the search would depend on which cell ran first.
        """
        unknown = [mask for mask in masks if self._samples_known(mask) < wanted]
        # Files can grow while ranks read them, so all ranks use what the first rank has read.
        for score in collectives.on_first(lambda: self.known.find(unknown)):
            old = self.journal.scores.get(score.mask)
            if (score.of is None and score.parts == 1) or wanted < self.samples or old is not None:
                self._note(score if old is None else replace(score, seconds=old.seconds))

    def whole(self, mask: Mask) -> Score:
        """The full score of a mask, scored again if a race has put it together from parts.

        So a result has the same loss with a race and without. The journal keeps the score in parts, which a resumed
        search needs to choose as before.
        """
        (score,) = self.scores([mask])
        if score.parts > 1:
            for _, terms, seconds in self.losses.whole.terms([mask]):
                score = self._score(mask, tuple(terms), score.seconds + seconds)
        return score

    def bounds(self, masks: Sequence[Mask], share: bool) -> dict[Mask, Score]:
        """Lower bounds of the masks' full scores; empty if there are none.

        They are taken from the cell's journal and, if `share`, from those of other cells; others are computed.
        """
        journal, loss = self.known.bounds, self.losses.whole
        if share:
            for score in self.known.find_bounds([mask for mask in masks if mask not in journal.scores]):
                journal.add(score)
        missing = [mask for mask in masks if mask not in journal.scores]
        for mask, terms, seconds in loss.bounds(missing) if loss.bounds is not None and missing else ():
            journal.add(Score(mask, loss.estimate.mean(terms), tuple(terms), seconds))
            self.progressed()
        if any(mask not in journal.scores for mask in masks):
            return {}
        return {mask: journal.scores[mask] for mask in masks}

    def count_asked(self, masks: Sequence[Mask], samples: int | None = None) -> None:
        """Count the losses that the search asks for, repeats included."""
        self.asked.update(dict.fromkeys(masks))
        self.count += len(masks) * self._wanted(samples) / self.samples

    def paid(self) -> tuple[float, float]:
        """Of the requested losses, the number that this cell has computed and the number that others have computed.

        A loss over a fraction of the samples counts as that fraction.
        """
        scores = self.journal.scores
        total = math.fsum(len(scores[mask].samples) for mask in self.asked if mask in scores)
        paid = math.fsum(self.journal.paid.get(mask, 0) for mask in self.asked)
        return paid / self.samples, (total - paid) / self.samples

    def first(self, score: Score, samples: int) -> Score:
        """A score cut to its first `samples` samples."""
        if len(score.samples) == samples:
            return score
        return self._score(score.mask, score.samples[:samples], score.seconds)

    def progressed(self) -> None:
        """Tell `watch` how far the search is, once a mask is scored in full."""
        if self.best:
            size = max(self.best)
            self.watch(len(self.journal.scores), self.best[size], size)

    def _wanted(self, samples: int | None) -> int:
        """The number of samples to score: all if None, else at least `samples` of them, with each kind included."""
        if samples is None:
            return self.samples
        return min(max(samples, self.losses.whole.estimate.least), self.samples)

    def _samples_known(self, mask: Mask) -> int:
        """The number of samples on which this cell's journal has the terms of a mask."""
        return len(self.journal.scores[mask].samples) if mask in self.journal.scores else 0

    def _joined(self, mask: Mask, terms: Sequence[float], seconds: float) -> Score:
        """The known score of a mask, extended by new terms and by the seconds that they took."""
        old = self.journal.scores.get(mask)
        if old is None:
            return self._score(mask, tuple(terms), seconds)
        joined = self._score(mask, (*old.samples, *terms), old.seconds + seconds)
        return replace(joined, parts=old.parts + 1)

    def _score(self, mask: Mask, terms: tuple[float, ...], seconds: float) -> Score:
        partial = self.samples if len(terms) < self.samples else None
        return Score(mask, self.losses.whole.estimate.mean(terms), terms, seconds, partial)

    def _note(self, score: Score) -> None:
        self.journal.add(score)
        if score.of is None:
            size = len(score.mask.dropped)
            self.best[size] = min(score.loss, self.best.get(size, score.loss))
        self.progressed()


@dataclass(frozen=True)
class KnownScores:
    """The scores in the cell's journal and, if there is a store, in those of other cells.

    `own_bounds` (None: in memory) and `others_bounds` are the same for lower bounds of scores.
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


# The cell's own journal.


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
        """Read the journal of an earlier run; if there are several ranks, only the first rank reads the file.

        An incomplete last line is cut off; any other bad line raises DamagedError. With an `estimate`, so does a line
        whose loss is not that of its terms. It is not repaired, because nobody knows which of the two is wrong.
        """
        return collectives.on_first(lambda: cls._read(path, n_blocks, estimate, unit))

    @classmethod
    def _read(cls, path: Path, n_blocks: int, estimate: Estimate | None, unit: str) -> Journal:
        journal = cls(path, n_blocks, unit)
        storage.mend(path)
        for entry in read_trace(path):
            score = _score(entry.line, n_blocks, unit)
            if score is None:
                raise DamagedError(
                    f"{path}, line {entry.number} is damaged: remove the line, or remove the file to start again."
                )
            if wrong := _contradiction(score, estimate):
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
                storage.append_line(self.path, score.to_line())
            self._take(score)

    def _take(self, score: Score) -> None:
        old = self.scores.get(score.mask)
        known, spent = (len(old.samples), old.seconds) if old is not None else (0, 0.0)
        if score.seconds > spent:
            self.paid[score.mask] = self.paid.get(score.mask, 0) + len(score.samples) - known
        self.scores[score.mask] = score


def _score(line: TraceLine | None, n_blocks: int, unit: str) -> Score | None:
    """The score in a line, or None if the line is damaged or names a unit that the model does not have."""
    try:
        return None if line is None else Score.from_line(line, n_blocks, unit)
    except InputError:
        return None


def _contradiction(score: Score, estimate: Estimate | None) -> str:
    """What in a score contradicts itself or the samples, in words; empty if nothing does."""
    if estimate is None:
        return ""
    terms, most = len(score.samples), estimate.count
    if terms > most or (score.of or terms) != most:
        return f"it has {terms} terms of {score.of or terms} samples, and the cell has {most}"
    loss = estimate.mean(score.samples)
    if not math.isclose(loss, score.loss, rel_tol=1e-6, abs_tol=1e-9):
        return f"its loss is {score.loss:.9g}, and its terms give {loss:.9g}"
    return ""


# The journals of other cells.
#
# Most cells of a large store are finished, so their journals never change. To look into every journal for every mask
# would take longer than some masks. So a journal is looked at again only after a fraction SHARE of the time for which
# it has been unchanged, at most LONGEST; until then, masks of its new scores count as unknown. New lines are indexed
# by their removed blocks, and a line is parsed only if its mask is needed.

SHARE = 0.02
LONGEST = 60.0  # seconds
# Within this time, a folder can change again without a new time stamp.
SETTLED = 2_000_000_000  # nanoseconds


@dataclass
class _Source:
    """A journal: the bytes that are indexed, and when to look for more."""

    path: Path
    end: int = 0
    due: float = 0.0


@dataclass
class Store:
    """The scores that other cells with the same score key have computed, in their journals called `name`.

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
    _lines: dict[tuple[int, ...], list[tuple[Path, int]]] = field(default_factory=dict)  # not read yet
    _sources: dict[str, _Source] = field(default_factory=dict)
    _listed: tuple[int, int] = (0, 0)  # when the folder of pointers last changed, and when it was listed

    def of(self, name: str, estimate: Estimate | None = None) -> Store:
        """The store of other journals of the same cells."""
        return Store(self.results, self.key, self.cell, self.n_blocks, self.share, self.unit, estimate, name)

    def claim(self) -> None:
        """Register this cell's journal under `key`. Raises ForeignError if it is registered under another key."""
        collectives.on_first(self._claim)

    def _claim(self) -> None:
        folder, scores = self.results / self.cell, self.results / "scores"
        own, registered = folder / self.name, [*scores.glob(f"*/{self.cell}")]
        if not registered and own.exists() and own.stat().st_size:
            raise ForeignError(
                f"{own} is not registered in {scores}, so its model and samples are not known: copy the whole "
                "results folder, or move the cell's folder away."
            )
        for other in registered:
            if other.parent.name != self.key:
                if not own.exists():
                    other.unlink()  # the folder has been moved away
                    continue
                raise ForeignError(
                    f"{folder} holds a journal of other calibration samples, of another revision of the model or "
                    "with another forward.compile: set that as before, move the folder away, or choose another with "
                    "paths.results=DIR."
                )
        pointer = scores / self.key / self.cell
        pointer.parent.mkdir(parents=True, exist_ok=True)
        storage.touch(pointer)

    def find(self, masks: Sequence[Mask]) -> list[Score]:
        """Other cells' scores of these masks: for each mask, the score over the most samples, if any.

        The `seconds` of these scores are 0.
        """
        if not self.share:
            return []
        if wanted := [mask for mask in masks if self._can_grow(mask)]:
            self._list()
            for source in self._sources.values():
                if time.time() >= source.due:
                    self._index(source)
            for mask in wanted:
                self._read(mask)
        return [self._scores[mask] for mask in masks if mask in self._scores]

    def _can_grow(self, mask: Mask) -> bool:
        return mask not in self._scores or self._scores[mask].of is not None

    def _read(self, mask: Mask) -> None:
        """Keep the score of a mask over the most samples, among those in the lines that were not read before."""
        lines = self._lines.get(mask.dropped, [])
        while lines and self._can_grow(mask):
            path, offset = lines.pop(0)
            score = _score(read_line(path, offset), self.n_blocks, self.unit)
            if score is None or score.mask != mask or _contradiction(score, self.estimate):
                _skip(path)
            elif score.exceeds(self._scores.get(mask)):
                self._scores[mask] = replace(score, seconds=0.0)

    def _list(self) -> None:
        """Find the journals of cells that were registered since the last call."""
        pointers = self.results / "scores" / self.key
        try:
            changed = pointers.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed == self._listed[0] and self._listed[1] - changed > SETTLED:
            return
        self._listed = (changed, time.time_ns())
        names = {path.name for path in pointers.iterdir()} - {self.cell}
        if names - self._sources.keys():
            known = self._sources
            self._sources = {n: known.get(n) or _Source(self.results / n / self.name) for n in sorted(names)}

    def _index(self, source: _Source) -> None:
        """Index the new lines of a journal by their blocks."""
        try:
            stat = source.path.stat()
        except OSError:  # the cell has no journal yet
            return
        if stat.st_size > source.end:
            for start, end, blocks in read_masks(source.path, source.end):
                source.end = end
                if blocks is None:
                    _skip(source.path)
                else:
                    self._lines.setdefault(tuple(sorted({*blocks})), []).append((source.path, start))
        now = time.time()
        source.due = now + min(max(now - stat.st_mtime, 0.0) * SHARE, LONGEST)


def _skip(path: Path) -> None:
    log.warning("%s: skipped a damaged line", path)
