"""Losses of masks: the journal that a cell appends to, and the store in which cells read each other's.

A score belongs to (model, revision, dtype, objective, calibration samples), not to the cell that paid for
it: one-shot's single removals are greedy's first round. So the journals are the store. Each cell is the
only writer of its own `trace.jsonl`; a name in `scores/<score key>/` says that a cell's journal speaks of
that key, and everyone with the same key reads it. Nothing is locked and nothing is written twice.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pruning import files, ranks
from pruning.errors import DamagedError, ForeignError, LossError
from pruning.mask import Mask

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Score:
    """The loss of one mask under one objective, with its per-sample terms; lower is better.

    `seconds` is the time it took this cell; 0 marks a score that another cell had paid for. A partial score, over the
    first samples only, says `of` how many there are; a full one says None.
    """

    mask: Mask
    loss: float
    samples: tuple[float, ...]
    seconds: float
    of: int | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.loss):
            if not self.mask.dropped:
                raise LossError(f"the loss of the whole model is {self.loss}: try model.dtype=float32.")
            raise LossError(
                f"the loss is {self.loss} with blocks {list(self.mask.dropped)} removed: "
                "protect those blocks (protect.first, protect.last), or try model.dtype=float32."
            )

    def to_json(self) -> dict[str, Any]:
        """A line of trace.jsonl."""
        line = {
            "dropped": list(self.mask.dropped),
            "loss": self.loss,
            "samples": list(self.samples),
            "seconds": max(round(self.seconds, 6), 1e-6) if self.seconds else 0.0,
        }
        return line if self.of is None else line | {"of": self.of}

    @classmethod
    def from_json(cls, line: bytes, n_blocks: int) -> Score:
        """Parse a line of trace.jsonl; raises ValueError, KeyError or TypeError where it is none."""
        data = json.loads(line)
        mask = Mask(n_blocks, tuple(data["dropped"]))
        terms = tuple(map(float, data["samples"]))
        return cls(mask, float(data["loss"]), terms, float(data["seconds"]), data.get("of"))

    def exceeds(self, other: Score | None) -> bool:
        """Whether it knows more samples than another score of the same mask."""
        return other is None or len(self.samples) > len(other.samples)


@dataclass
class Journal:
    """The scores of one cell, in the order in which the search came to need them; of each mask the one of most
    samples. `paid` says on how many of them the cell has computed it itself.
    """

    path: Path
    n_blocks: int
    scores: dict[Mask, Score] = field(default_factory=dict)
    paid: dict[Mask, int] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, n_blocks: int) -> Journal:
        """Read what an earlier run left. A torn last line is cut off; any other bad line is an error.

        Of several ranks, the first one reads.
        """
        return ranks.first(lambda: cls._read(path, n_blocks))

    @classmethod
    def _read(cls, path: Path, n_blocks: int) -> Journal:
        journal = cls(path, n_blocks)
        files.mend(path)
        if path.exists():
            for number, (_, line) in enumerate(files.read_lines(path), start=1):
                try:
                    score = Score.from_json(line, n_blocks)
                except Exception as error:
                    raise DamagedError(
                        f"{path}, line {number} is damaged: remove the line, or the file to start afresh."
                    ) from error
                if score.exceeds(journal.scores.get(score.mask)):
                    journal._take(score)
        return journal

    def add(self, score: Score) -> None:
        """Append a score; it is on disk, whatever happens to this process, when this returns."""
        if score.exceeds(self.scores.get(score.mask)):
            if ranks.is_first():
                files.append_line(self.path, score.to_json())
            self._take(score)

    def _take(self, score: Score) -> None:
        old = self.scores.get(score.mask)
        known, spent = (len(old.samples), old.seconds) if old is not None else (0, 0.0)
        if score.seconds > spent:
            self.paid[score.mask] = self.paid.get(score.mask, 0) + len(score.samples) - known
        self.scores[score.mask] = score


@dataclass
class Store:
    """What other cells with the same score key have paid for; read again whenever it is asked."""

    results: Path
    key: str
    cell: str
    n_blocks: int
    share: bool = True
    _scores: dict[Mask, Score] = field(default_factory=dict)
    _offsets: dict[Path, int] = field(default_factory=dict)

    def claim(self) -> None:
        """Say that this cell's journal speaks of this key; raises ForeignError if it speaks of another."""
        ranks.first(self._claim)

    def _claim(self) -> None:
        for other in (self.results / "scores").glob(f"*/{self.cell}"):
            if other.parent.name != self.key:
                raise ForeignError(
                    f"{self.results / self.cell} holds a journal of other calibration samples or another "
                    "revision of the model: move the folder away, or choose another with paths.results=DIR."
                )
        pointer = self.results / "scores" / self.key / self.cell
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.touch()

    def get(self, mask: Mask) -> Score | None:
        """The score of a mask if some cell has it, the one of most samples, marked as not paid for here."""
        return next(iter(self.find([mask])), None)

    def find(self, masks: Sequence[Mask]) -> list[Score]:
        """The same for many masks, of those that some cell has; files are looked at once for all of them."""
        if not self.share:
            return []
        if any(mask not in self._scores or self._scores[mask].of is not None for mask in masks):
            self._refresh()
        return [self._scores[mask] for mask in masks if mask in self._scores]

    def _refresh(self) -> None:
        for pointer in sorted((self.results / "scores" / self.key).glob("*")):
            path = self.results / pointer.name / "trace.jsonl"
            if pointer.name != self.cell and path.exists():
                for score in self._new(path):
                    if score.exceeds(self._scores.get(score.mask)):
                        self._scores[score.mask] = replace(score, seconds=0.0)

    def _new(self, path: Path) -> Iterator[Score]:
        for offset, line in files.read_lines(path, self._offsets.get(path, 0)):
            self._offsets[path] = offset
            try:
                yield Score.from_json(line, self.n_blocks)
            except Exception:
                log.warning("%s: a damaged line is left out", path)
