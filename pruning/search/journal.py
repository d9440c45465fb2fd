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
from collections.abc import Callable, Iterator, Sequence
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
    append_trace,
    read_line,
    read_masks,
    read_trace,
)
from pruning.engine import collectives
from pruning.objective import Loss

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
        storage.mend(path)
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
        storage.touch(pointer)

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


# Get scores of masks from this cell's journal or other cells' journals, or compute them.

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
    count: float = 0.0
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
            at_once = score.of is None and score.parts == 1
            if at_once or wanted < self.samples or score.mask in self.journal.scores:
                self._note(self._given(score))

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

    def count_asked(self, masks: Sequence[Mask], samples: int | None) -> None:
        """Count the losses that the search asks for, repeats included."""
        self.asked.update(dict.fromkeys(masks))
        self.count += len(masks) * self._wanted(samples) / self.samples

    def _wanted(self, samples: int | None) -> int:
        """The number of samples to score: all if None, else at least `samples` of them, with each kind included."""
        return (
            self.samples
            if samples is None
            else min(max(samples, self.losses.whole.estimate.least), self.samples)
        )

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

    def _given(self, score: Score) -> Score:
        """A score from another cell, with `seconds` set to the time that this cell itself has spent on the mask."""
        old = self.journal.scores.get(score.mask)
        return score if old is None else replace(score, seconds=old.seconds)

    def first(self, score: Score, samples: int) -> Score:
        """A score cut to its first `samples` samples."""
        if len(score.samples) == samples:
            return score
        return self._score(score.mask, score.samples[:samples], score.seconds)

    def _score(self, mask: Mask, terms: tuple[float, ...], seconds: float) -> Score:
        partial = self.samples if len(terms) < self.samples else None
        return Score(mask, self.losses.whole.estimate.mean(terms), terms, seconds, partial)

    def _note(self, score: Score) -> None:
        self.journal.add(score)
        if score.of is None:
            size = len(score.mask.dropped)
            self.best[size] = min(score.loss, self.best.get(size, score.loss))
        self.progressed()

    def progressed(self) -> None:
        """Tell `watch` how far the search is, once a mask is scored in full."""
        if self.best:
            size = max(self.best)
            self.watch(len(self.journal.scores), self.best[size], size)

    def paid(self) -> tuple[float, float]:
        """Of the requested losses, the number that this cell has computed and the number that others have computed.

        A loss over a fraction of the samples counts as that fraction.
        """
        scores = self.journal.scores
        total = math.fsum(len(scores[mask].samples) for mask in self.asked if mask in scores)
        paid = math.fsum(self.journal.paid.get(mask, 0) for mask in self.asked)
        return paid / self.samples, (total - paid) / self.samples


# Where the journals of other cells hold the scores of a mask: a line is parsed only if its mask is needed.

# A journal that has not changed for some time is looked at again after this fraction of that time, at most LONGEST.
SHARE = 0.02
LONGEST = 60.0  # seconds

Blocks = tuple[int, ...]

# Within this time, a folder can change again without a new time stamp.
SETTLED = 2_000_000_000  # nanoseconds


@dataclass
class _Source:
    """A journal: the bytes that are indexed, and when to look for more."""

    path: Path
    end: int = 0
    due: float = 0.0


@dataclass
class ScoreIndex:
    """The lines of the journals that are registered in `pointers`, except that of the cell `own`, by removed blocks.

    Most cells of a large store are finished, so their journals never change. To look into every journal for every
    mask would take longer than some masks. So a journal that has long been unchanged is looked at rarely: a new score
    in it is found up to 2 % of that time later, and until then its mask counts as unknown.
    """

    results: Path
    pointers: Path
    own: str
    name: str = NAME  # of the journals
    _lines: dict[Blocks, list[tuple[Path, int]]] = field(default_factory=dict)
    _sources: dict[str, _Source] = field(default_factory=dict)
    _listed: tuple[int, int] = (0, 0)  # when the folder of pointers last changed, and when it was listed

    def refresh(self) -> list[Path]:
        """Index what is new. Returns a journal for each line that is damaged so much that its blocks are unknown."""
        self._list()
        now = time.time()
        return [path for source in self._sources.values() if now >= source.due for path in self._read(source)]

    def take(self, blocks: Blocks) -> Iterator[tuple[Path, TraceLine | None]]:
        """Yield (journal, line) for the lines of a mask, in the order in which they were indexed, once for each line.

        A line is None if it is damaged.
        """
        for path, offset in self._lines.pop(blocks, ()):
            yield path, read_line(path, offset)

    def _list(self) -> None:
        try:
            changed = self.pointers.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed == self._listed[0] and self._listed[1] - changed > SETTLED:
            return
        self._listed = (changed, time.time_ns())
        names = {path.name for path in self.pointers.iterdir()} - {self.own}
        if names - self._sources.keys():
            known = self._sources
            self._sources = {n: known.get(n) or _Source(self.results / n / self.name) for n in sorted(names)}

    def _read(self, source: _Source) -> Iterator[Path]:
        """Index the new lines of a journal. Yields its path for each line whose blocks are unknown."""
        try:
            stat = source.path.stat()
        except OSError:  # the cell has no journal yet
            return
        if stat.st_size > source.end:
            for start, end, blocks in read_masks(source.path, source.end):
                source.end = end
                if blocks is None:
                    yield source.path
                else:
                    self._lines.setdefault(tuple(sorted({*blocks})), []).append((source.path, start))
        now = time.time()
        source.due = now + min(max(now - stat.st_mtime, 0.0) * SHARE, LONGEST)
