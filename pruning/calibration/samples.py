"""Samples as token rows. A row has the token ids that a model reads and the span of positions that are scored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from pruning.core import storage
from pruning.core.errors import InputError
from pruning.core.scoring import Estimate


@dataclass(frozen=True)
class Row:
    """Token ids, and the span [start, stop) of positions whose log-likelihood is scored; start >= 1.

    A row of a multiple-choice item also has the numbers of its item and choice, and whether the choice is
    right. `source` is set if the samples come from several sources; comparisons of rows ignore it.
    """

    input_ids: tuple[int, ...]
    span: tuple[int, int]
    item: int | None = None
    choice: int | None = None
    right: bool | None = None
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        start, stop = self.span
        if not 1 <= start < stop <= len(self.input_ids):
            raise ValueError(f"span {self.span} does not fit {len(self.input_ids)} tokens")

    def to_json(self) -> dict[str, Any]:
        """The row as a line of calibration/<sha256>.jsonl."""
        data: dict[str, Any] = {"input_ids": list(self.input_ids), "span": list(self.span)}
        if self.item is not None:
            data |= {"item": self.item, "choice": self.choice, "right": self.right}
        return data


@dataclass(frozen=True)
class Samples:
    """The rows of one draw. `keys` identify the items, so that `shared` can count those that two draws share."""

    kind: str  # "text", "items" or "both"
    source: str
    rows: tuple[Row, ...]
    seed: int
    keys: frozenset[str] = frozenset()

    @cached_property
    def sha256(self) -> str:
        """The digest of the rows. Two draws with equal digests give a mask the same loss."""
        return storage.text_sha256(self._text())

    @cached_property
    def units(self) -> tuple[tuple[Row, ...], ...]:
        """The samples, in order. A text window is one row; an item is one row per choice."""
        # Each window has a key of its own, and all rows of an item have the same key.
        keys = [number if row.item is None else -1 - row.item for number, row in enumerate(self.rows)]
        groups = groupby(zip(keys, self.rows, strict=True), key=lambda pair: pair[0])
        return tuple(tuple(row for _, row in members) for _, members in groups)

    @property
    def count(self) -> int:
        """The number of samples: text windows or items."""
        return len(self.units)

    @property
    def length(self) -> int:
        """The number of tokens of the longest row."""
        return max(len(row.input_ids) for row in self.rows)

    @property
    def largest_id(self) -> int:
        """The largest token id."""
        return max(max(row.input_ids) for row in self.rows)

    def part(self, start: int, stop: int) -> Samples:
        """The samples with numbers `start` to `stop` - 1, counted from 0."""
        return replace(self, rows=tuple(row for unit in self.units[start:stop] for row in unit))

    def only(self, kind: str) -> Samples:
        """The samples of one kind: the text windows ("text") or the items ("items")."""
        rows = tuple(row for row in self.rows if (row.item is None) == (kind == "text"))
        return replace(self, kind=kind, rows=rows)

    def labelled(self) -> Samples:
        """The same samples, with `source` set in each row; a row that has a source keeps it."""
        return replace(self, rows=tuple(replace(row, source=row.source or self.source) for row in self.rows))

    def shuffled(self) -> Samples:
        """The same samples in a random order that the seed determines. Windows and items are shuffled separately.

        Each window is replaced by a window, and each item by an item. Items get new numbers, in order.
        Races and search stages can use only the first samples. The shuffle makes the first samples a random subset
        even if the source is sorted by topic or task.
        """
        rng, rows = np.random.default_rng(self.seed), list[Row]()
        kinds = {kind: self.only(kind).units for kind in ("text", "items")}
        orders = {kind: iter(rng.permutation(len(units))) for kind, units in kinds.items()}
        items = 0
        for unit in self.units:
            kind = "text" if unit[0].item is None else "items"
            taken = kinds[kind][next(orders[kind])]
            rows += taken if kind == "text" else (replace(row, item=items) for row in taken)
            items += kind == "items"
        return replace(self, rows=tuple(rows))

    def estimate(self, shares: tuple[float, ...] = (1.0,)) -> Estimate:
        """How samples' terms form a loss. A window's weight is the number of its scored tokens, an item's is 1.

        If two shares are given, the first multiplies the mean of the windows and the second that of the items.
        """
        items = [unit[0].item is not None for unit in self.units]
        weights = [
            1.0 if item else float(unit[0].span[1] - unit[0].span[0])
            for item, unit in zip(items, self.units, strict=True)
        ]
        return Estimate(tuple(weights), tuple(int(item and len(shares) > 1) for item in items), shares)

    def per_unit(self, values: Sequence[float]) -> list[list[float]]:
        """The values of all rows as one list for each sample."""
        if len(values) != len(self.rows):
            raise ValueError(f"{len(values)} values for {len(self.rows)} rows")
        remaining = iter(values)
        return [[next(remaining) for _ in unit] for unit in self.units]

    def answers(self, logliks: Sequence[float]) -> Iterator[tuple[list[float], int]]:
        """For each item, the length-normalised scores of its choices and the index of the right choice."""
        for unit, sums in zip(self.units, self.per_unit(logliks), strict=True):
            scores = [total / (row.span[1] - row.span[0]) for row, total in zip(unit, sums, strict=True)]
            yield scores, next(choice for choice, row in enumerate(unit) if row.right)

    def shared(self, other: Samples) -> int:
        """The number of items in both draws, plus the number of runs of tokens that windows of both draws contain.

        Windows are compared only with windows, and items only with items.
        """
        if "both" in (self.kind, other.kind):
            parts = ((self.only(kind), other.only(kind)) for kind in ("text", "items"))
            return sum(a.shared(b) for a, b in parts if a.rows and b.rows)
        if self.kind != other.kind:
            return 0
        if self.kind == "items":
            return len(self.keys & other.keys)
        return len({run for _, run in shared_runs(self.rows, other.rows)})

    def save(self, folder: Path) -> Path:
        """Write the rows to `<sha256>.jsonl` unless the file exists, so that any loss can be recomputed."""
        path = folder / f"{self.sha256}.jsonl"
        if not path.exists():
            storage.write_text(path, self._text())
        return path

    def _text(self) -> str:
        return "".join(json.dumps(row.to_json()) + "\n" for row in self.rows)


# The windows or items that a seed draws from a pool.

ORDER = 0  # the seed of the pool's order for disjoint draws


def drawn(size: int, samples: int, seed: int, disjoint: bool, prefix: str, pool: str) -> list[int]:
    """`samples` indices, sorted, that a seed draws from a pool of `size` entries; `size` >= `samples`.

    If `disjoint`, a fixed random order of the pool is cut into groups of `samples`, and the seed is the number of the
    group to take. So draws with different seeds have nothing in common. If there is no group of that number, raises
    InputError, whose text contains `prefix` (the settings group) and `pool` (a description of the pool).
    """
    if not disjoint:
        return sorted(np.random.default_rng(seed).choice(size, size=samples, replace=False).tolist())
    if seed >= (groups := size // samples):
        raise InputError(
            f"{prefix}.seed={seed} is too high for {prefix}.disjoint=true: {pool}, enough for {groups} disjoint "
            f"draws of {samples}, whose seeds are 0 to {groups - 1}. Choose one of these, lower {prefix}.samples, or "
            f"set {prefix}.disjoint=false."
        )
    order = np.random.default_rng(ORDER).permutation(size)
    return sorted(order[seed * samples :][:samples].tolist())


# The runs of tokens that two sets of windows share.
#
# Two windows share text if both contain the same run of `OVERLAP` tokens. If one of them has fewer than 2 * `OVERLAP`
# tokens, a run of half the shorter window's length is enough. Such a run has at least `SHORTEST` tokens, or is the
# whole window if the window is shorter. The required length is decided for each pair, so that long windows of
# a set do not hide what its short ones share.

OVERLAP, SHORTEST = 32, 20

Run: TypeAlias = tuple[int, ...]


def shared_runs(rows: Sequence[Row], others: Sequence[Row]) -> Iterator[tuple[int, Run]]:
    """Yield (number of the row, run) for each run of tokens that a row shares with one of `others`."""
    needs = [_needed(row) for row in rows]
    for length in sorted({*needs, *map(_needed, others)}):
        # Two rows are compared at the smaller of their required lengths, whichever side has it.
        exact = _runs((row for row in others if _needed(row) == length), length)
        longer = _runs((row for row in others if _needed(row) > length), length)
        for number, (row, need) in enumerate(zip(rows, needs, strict=True)):
            if need >= length:
                own = _runs([row], length)
                found = own & exact if need > length else own & (exact | longer)
                yield from ((number, run) for run in found)


def apart(rows: Sequence[Row], others: Sequence[Row]) -> tuple[Row, ...]:
    """The `rows` that share no run of tokens with `others`."""
    shared = {number for number, _ in shared_runs(rows, others)}
    return tuple(row for number, row in enumerate(rows) if number not in shared)


def _needed(row: Row) -> int:
    """How many tokens a run needs to count as shared by this row and another that is at least as long."""
    length = len(row.input_ids)
    return min(OVERLAP, length, max(SHORTEST, length // 2))


def _runs(rows: Iterable[Row], length: int) -> set[Run]:
    ids = (row.input_ids for row in rows)
    return {row[i : i + length] for row in ids for i in range(len(row) - length + 1)}
