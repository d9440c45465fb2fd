"""The journals of scores: the journal of one cell, and the journals of other cells, which this cell reads.

A score depends on (model, revision, dtype, objective, calibration samples), not on the cell that computed it. For
example, one-shot and the first round of greedy need the same scores. So all journals together form one store. A cell
writes only to its own journal, `trace.jsonl`. An empty file `scores/<score key>/<cell>` means that the cell's journal
belongs to that key; all cells with this key read the journal. So the store needs no locks and no copies.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from pruning.core import storage
from pruning.core.errors import DamagedError, ForeignError, InputError
from pruning.core.mask import Mask
from pruning.core.scoring import NAME, Estimate, Score, TraceEntry, TraceLine, read_trace
from pruning.engine import collectives
from pruning.objective import Loss

log = logging.getLogger(__name__)


# Look up known scores, and compute missing ones.

# Called after each new score or bound. The arguments: the number of masks with a score or a bound; the lowest
# full loss of the masks that remove the most units; and the number of units that these masks remove.
Watch = Callable[[int, float, int], None]


class Losses(Protocol):
    """The loss that is minimised, over all samples or a part of them; see `pruning.objective.Calibrated`."""

    @property
    def whole(self) -> Loss:
        """The loss over all samples."""
        ...

    def part(self, start: int, stop: int) -> Loss:
        """The loss over the samples `start` to `stop` - 1."""
        ...


@dataclass
class ScoreBook:
    """The scores that a search needs, by mask. A score is computed only if no cell's journal has it.

    `journal` has the cell's scores, and `bounds` has the cell's lower bounds of scores.
    """

    losses: Losses
    journal: Journal
    bounds: Journal
    watch: Watch
    asked: dict[Mask, None] = field(default_factory=dict)
    count: float = 0.0  # losses that the search has asked for, repeats included
    best: dict[int, float] = field(default_factory=dict)  # number of removed blocks -> lowest full loss

    @property
    def estimate(self) -> Estimate:
        """The rule that computes a loss from its terms."""
        return self.losses.whole.estimate

    @property
    def samples(self) -> int:
        """The number of samples of a full score."""
        return self.estimate.count

    def scores(self, masks: Sequence[Mask], samples: int | None = None) -> list[Score]:
        """Scores over the first `samples` samples (None: all). Only scores that are in no journal are computed."""
        wanted = self._wanted(samples)
        self.look_up(masks, wanted)
        missing: dict[int, dict[Mask, None]] = {}
        for mask in masks:
            if (known := self._samples_known(mask)) < wanted:
                missing.setdefault(known, {})[mask] = None
        for known, group in missing.items():
            for mask, terms, seconds in self.losses.part(known, wanted).terms(list(group)):
                self._note(self._joined(mask, terms, seconds))
        return [self.estimate.first(self.journal.scores[mask], wanted) for mask in masks]

    def look_up(self, masks: Sequence[Mask], wanted: int) -> None:
        """Add other cells' scores to the journal, for masks without a score over `wanted` samples.

        A search that scores masks on all samples at once ignores scores that another cell's race has computed
        in parts. Scores from parts are rounded differently, so the result would depend on which cell ran first.
        """
        for score in self.journal.find([mask for mask in masks if self._samples_known(mask) < wanted]):
            old = self.journal.scores.get(score.mask)
            if (score.of is None and score.parts == 1) or wanted < self.samples or old is not None:
                self._note(score if old is None else replace(score, seconds=old.seconds))

    def whole(self, mask: Mask) -> Score:
        """The full score of a mask. If a race has computed it in parts, it is computed again.

        So the loss in a result is the same with and without a race. The journal keeps the first score, so
        that a resumed search makes the same choices.
        """
        (score,) = self.scores([mask])
        if score.parts > 1:
            for _, terms, seconds in self.losses.whole.terms([mask]):
                score = self.estimate.score(mask, terms, score.seconds + seconds)
        return score

    def bounded(self, masks: Sequence[Mask]) -> dict[Mask, Score]:
        """Known and newly computed lower bounds of the masks' full scores; empty if any mask has no bound."""
        journal, loss = self.bounds, self.losses.whole
        missing = [mask for mask in masks if mask not in journal.scores]
        for mask, terms, seconds in loss.bounds(missing) if loss.bounds is not None and missing else ():
            journal.add(loss.estimate.score(mask, terms, seconds))
            self._progressed()
        if any(mask not in journal.scores for mask in masks):
            return {}
        return {mask: journal.scores[mask] for mask in masks}

    def count_asked(self, masks: Sequence[Mask], samples: int | None = None) -> None:
        """Count the losses that the search asks for, repeats included."""
        self.asked.update(dict.fromkeys(masks))
        self.count += len(masks) * self._wanted(samples) / self.samples

    def paid(self) -> tuple[float, float]:
        """The number of requested losses that this cell has computed, and the number that other cells have computed.

        A loss over a fraction of the samples counts as that fraction.
        """
        scores = self.journal.scores
        total = math.fsum(len(scores[mask].samples) for mask in self.asked if mask in scores)
        paid = math.fsum(self.journal.paid.get(mask, 0) for mask in self.asked)
        return paid / self.samples, (total - paid) / self.samples

    def _wanted(self, samples: int | None) -> int:
        """The number of samples to score: `samples` (None: all), or more if a loss estimate needs more."""
        if samples is None:
            return self.samples
        return min(max(samples, self.estimate.least), self.samples)

    def _samples_known(self, mask: Mask) -> int:
        """The number of samples for which this cell's journal has the terms (losses) of a mask."""
        return len(self.journal.scores[mask].samples) if mask in self.journal.scores else 0

    def _joined(self, mask: Mask, terms: Sequence[float], seconds: float) -> Score:
        """The known score of a mask, extended by new terms and the seconds of their computation."""
        if (old := self.journal.scores.get(mask)) is None:
            return self.estimate.score(mask, terms, seconds)
        joined = self.estimate.score(mask, (*old.samples, *terms), old.seconds + seconds)
        return replace(joined, parts=old.parts + 1)

    def _note(self, score: Score) -> None:
        self.journal.add(score)
        if score.of is None:
            size = len(score.mask.dropped)
            self.best[size] = min(score.loss, self.best.get(size, score.loss))
        self._progressed()

    def _progressed(self) -> None:
        """Report the progress to `watch`, once a mask has been scored on all samples."""
        if self.best:
            size = max(self.best)
            done = self.journal.scores.keys() | self.bounds.scores.keys()
            self.watch(len(done), self.best[size], size)


# The cell's own journal.


@dataclass
class Journal:
    """The scores of one cell, in the order in which the search needed them.

    For each mask, only the score over the most samples is kept. `paid` maps each mask to the number of
    samples on which this cell itself has scored it. If `path` is None, the journal is only in memory.
    `others` gives access to the journals of other cells; None if they are not read.
    """

    path: Path | None
    n_blocks: int
    unit: str = "block"
    others: Store | None = None
    scores: dict[Mask, Score] = field(default_factory=dict)
    paid: dict[Mask, int] = field(default_factory=dict)

    @classmethod
    def open(
        cls, path: Path, n_blocks: int, estimate: Estimate | None = None, unit: str = "block"
    ) -> Journal:
        """Read the journal of an earlier run; if there are several ranks, only the first rank reads the file.

        An incomplete last line is cut off; any other damaged line raises DamagedError. If `estimate` is given, a line
        whose loss contradicts its terms raises DamagedError, too, because the loss or the terms can be wrong.
        """
        return collectives.on_first(lambda: cls._read(path, n_blocks, estimate, unit))

    @classmethod
    def _read(cls, path: Path, n_blocks: int, estimate: Estimate | None, unit: str) -> Journal:
        journal = cls(path, n_blocks, unit)
        storage.mend(path)
        for entry in _with_terms(path):
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

    def find(self, masks: Sequence[Mask]) -> list[Score]:
        """The scores of these masks in other cells' journals. All ranks get the same scores."""
        others = self.others
        # Files can grow while ranks read them, so all ranks use what the first rank has read.
        return [] if others is None else collectives.on_first(lambda: others.find(masks))

    def add(self, score: Score) -> None:
        """If a score covers more samples than the mask's known score, write it to the journal at once."""
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


def _with_terms(path: Path, start: int = 0) -> Iterator[TraceEntry]:
    """Yield the lines of a journal that have terms. In an archive, the lines of partial scores have no terms."""
    for entry in read_trace(path, start):
        if entry.line is None or "scored" not in entry.line:
            yield entry


def _score(line: TraceLine | None, n_blocks: int, unit: str) -> Score | None:
    """The score in a line, or None if the line is damaged or names a unit that the model does not have."""
    try:
        return None if line is None else Score.from_line(line, n_blocks, unit)
    except InputError:
        return None


def _contradiction(score: Score, estimate: Estimate | None) -> str:
    """A text on how a score contradicts itself or the samples; empty if it does not."""
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


def claim(results: Path, key: str, cell: str) -> None:
    """Register a cell's journal under a score key. Raises ForeignError if it is registered under another key."""
    collectives.on_first(lambda: _claim(results, key, cell))


def _claim(results: Path, key: str, cell: str) -> None:
    folder, scores = results / cell, results / "scores"
    own, registered = folder / NAME, [*scores.glob(f"*/{cell}")]
    if not registered and own.exists() and own.stat().st_size:
        raise ForeignError(
            f"{own} is not registered in {scores}, so its model and samples are not known: copy the whole "
            "results folder, or move the cell's folder away."
        )
    for other in registered:
        if other.parent.name != key:
            if not own.exists():
                other.unlink()  # the folder has been moved away
                continue
            raise ForeignError(
                f"{folder} holds a journal of other calibration samples or of another revision of the model: set "
                "that as before, move the folder away, or choose another with paths.results=DIR."
            )
    pointer = scores / key / cell
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.touch()


@dataclass
class Store:
    """The journals of all other cells with the score key `key`; `name` is a journal's file name.

    If `estimate` is given, a line whose loss contradicts its terms is skipped.
    """

    results: Path
    key: str
    cell: str
    n_blocks: int
    unit: str = "block"
    estimate: Estimate | None = None
    name: str = NAME
    _scores: dict[Mask, Score] = field(default_factory=dict)
    _ends: dict[Path, int] = field(default_factory=dict)  # how many bytes of each journal have been read

    def find(self, masks: Sequence[Mask]) -> list[Score]:
        """For each of these masks that has known scores, the score over the most samples, with `seconds` set to 0."""
        if any(mask not in self._scores or self._scores[mask].of is not None for mask in masks):
            self._read()
        return [self._scores[mask] for mask in masks if mask in self._scores]

    def _read(self) -> None:
        """Read the lines that were added to the journals after the last call."""
        folder = self.results / "scores" / self.key
        names = {pointer.name for pointer in folder.iterdir()} if folder.exists() else set[str]()
        for path in (self.results / name / self.name for name in sorted(names - {self.cell})):
            for entry in _with_terms(path, self._ends.get(path, 0)):
                self._ends[path] = entry.end
                score = _score(entry.line, self.n_blocks, self.unit)
                if score is None or _contradiction(score, self.estimate):
                    log.warning("%s: skipped a damaged line", path)
                elif score.exceeds(self._scores.get(score.mask)):
                    self._scores[score.mask] = replace(score, seconds=0.0)
