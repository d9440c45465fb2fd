"""Samples as token rows: what is fed to a model and which of its positions are scored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pruning.core import atomic_files
from pruning.core.estimate import Estimate
from pruning.core.hashing import text_sha256

OVERLAP = 32  # tokens: a run of this length in two sets of windows means that they share text
SHORTEST = 20  # tokens: the same for windows so short that two cuts of one text may share no run of 32


@dataclass(frozen=True)
class Row:
    """Token ids and the span [start, stop) of positions whose log-likelihood counts; start >= 1.

    Rows of multiple-choice items also say which item and choice they are and whether it is the right one.
    """

    input_ids: tuple[int, ...]
    span: tuple[int, int]
    item: int | None = None
    choice: int | None = None
    right: bool | None = None

    def __post_init__(self) -> None:
        start, stop = self.span
        if not 1 <= start < stop <= len(self.input_ids):
            raise ValueError(f"span {self.span} does not fit {len(self.input_ids)} tokens")

    def to_json(self) -> dict[str, Any]:
        """A line of calibration/<sha256>.jsonl."""
        data: dict[str, Any] = {"input_ids": list(self.input_ids), "span": list(self.span)}
        if self.item is not None:
            data |= {"item": self.item, "choice": self.choice, "right": self.right}
        return data


@dataclass(frozen=True)
class Samples:
    """Rows of one draw. `keys` identify the items, so that two sets can be told to be disjoint."""

    kind: str
    source: str
    rows: tuple[Row, ...]
    seed: int
    keys: frozenset[str] = frozenset()

    @cached_property
    def sha256(self) -> str:
        """Digest of the exact rows: equal digests mean equal losses."""
        return text_sha256(self._text())

    @cached_property
    def units(self) -> tuple[tuple[Row, ...], ...]:
        """The samples, in order: a window of text is one row, an item a row for each choice."""
        numbered = enumerate(self.rows)
        groups = groupby(numbered, key=lambda pair: (pair[1].item is None, pair[1].item or 0, *_alone(*pair)))
        return tuple(tuple(row for _, row in members) for _, members in groups)

    @property
    def count(self) -> int:
        """Number of samples: windows of a text, or items."""
        return len(self.units)

    def part(self, start: int, stop: int) -> Samples:
        """The samples start..stop-1."""
        return replace(self, rows=tuple(row for unit in self.units[start:stop] for row in unit))

    def shuffled(self) -> Samples:
        """The same samples in an order that the seed draws, items numbered in it; windows take the places of windows,
        items those of items.

        Sources have an order of their own, by topic or task. Races and stages of searches look at the first samples
        and take them for a random part of all.
        """
        rng, rows = np.random.default_rng(self.seed), list[Row]()
        hands = {kind: iter(self._dealt(kind, rng)) for kind in ("text", "items")}
        for unit in self.units:
            rows += next(hands["text" if unit[0].item is None else "items"])
        return replace(self, rows=tuple(rows))

    def _dealt(self, kind: str, rng: np.random.Generator) -> list[tuple[Row, ...]]:
        """The samples of a kind in random order."""
        own = [unit for unit in self.units if (unit[0].item is None) == (kind == "text")]
        dealt = [own[i] for i in rng.permutation(len(own))]
        if kind == "text":
            return dealt
        return [tuple(replace(row, item=number) for row in unit) for number, unit in enumerate(dealt)]

    def only(self, kind: str) -> Samples:
        """The windows of text ("text") or the items ("items") among samples of both kinds."""
        rows = tuple(row for row in self.rows if (row.item is None) == (kind == "text"))
        return replace(self, kind=kind, rows=rows)

    def estimate(self, shares: tuple[float, ...] = (1.0,)) -> Estimate:
        """How terms of these samples make a loss; of two shares, that of windows comes first."""
        tokens = [sum(row.span[1] - row.span[0] for row in unit) for unit in self.units]
        weights = [
            float(n) if unit[0].item is None else 1.0 for n, unit in zip(tokens, self.units, strict=True)
        ]
        parts = [int(len(shares) > 1 and unit[0].item is not None) for unit in self.units]
        return Estimate(tuple(weights), tuple(parts), shares)

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.input_ids) for row in self.rows)

    def save(self, folder: Path) -> Path:
        """Write the rows to `<sha256>.jsonl`, once, so that anyone can recompute any loss."""
        path = folder / f"{self.sha256}.jsonl"
        if not path.exists():
            atomic_files.write_text(path, self._text())
        return path

    def answers(self, logliks: Sequence[float]) -> Iterator[tuple[list[float], int]]:
        """For each item, the length-normalised scores of its choices and the index of the right one."""
        for unit, sums in zip(self.units, self.per_unit(logliks), strict=True):
            scores = [total / (row.span[1] - row.span[0]) for row, total in zip(unit, sums, strict=True)]
            yield scores, next(choice for choice, row in enumerate(unit) if row.right)

    def shared(self, other: Samples) -> int:
        """How many items, or runs of tokens, stand in both sets; 0 for sets of different kinds."""
        if "both" in (self.kind, other.kind):
            parts = ((self.only(kind), other.only(kind)) for kind in ("text", "items"))
            return sum(one.shared(two) for one, two in parts if one.rows and two.rows)
        if self.kind != other.kind:
            return 0
        if self.kind == "items":
            return len(self.keys & other.keys)
        shortest = min(self.length, other.length)
        length = min(OVERLAP, shortest, max(SHORTEST, shortest // 2))
        return len(self._runs(length) & other._runs(length))

    def per_unit(self, values: Sequence[float]) -> list[list[float]]:
        """Values of rows, gathered by sample."""
        if len(values) != len(self.rows):
            raise ValueError(f"{len(values)} values for {len(self.rows)} rows")
        remaining = iter(values)
        return [[next(remaining) for _ in unit] for unit in self.units]

    def _runs(self, length: int) -> set[tuple[int, ...]]:
        ids = (row.input_ids for row in self.rows)
        return {row[i : i + length] for row in ids for i in range(len(row) - length + 1)}

    def _text(self) -> str:
        return "".join(json.dumps(row.to_json()) + "\n" for row in self.rows)


def _alone(number: int, row: Row) -> tuple[int, ...]:
    """What tells a window of text from the next."""
    return (number,) if row.item is None else ()
