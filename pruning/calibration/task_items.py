"""Some items of a task for the search, and other items of the same task held out: `calibration=task_items`.

`experiment=tasks` draws the items of each task in this way, and measures on the held-out items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pruning.calibration.drawn import check_seed
from pruning.calibration.item_records import comparable_items
from pruning.calibration.items import TEMPLATE, ItemDraw, check_template, encode_pair
from pruning.calibration.records import Item, existing
from pruning.calibration.samples import Samples
from pruning.calibration.sources import embedded_items
from pruning.core.errors import InputError, unknown

SOURCES = ("file", "commonsense")
EMBEDDED = "commonsense"  # the task of the items that come with this program


@dataclass(frozen=True)
class TaskItems:
    """`samples` items drawn with `seed`; `heldout` other items of the same task, which `split` alone decides.

    So two draws with different seeds have the same held-out items. Items of more than `length` tokens with their
    longest answer are left out (None: no limit), and so are items with equal choices. Of equal items, one is used.
    With `source` "commonsense", the items come with this program, and their two parts are its calibration and
    held-out parts.
    """

    source: str
    samples: int
    seed: int
    path: str | None = None
    heldout: int = 200
    split: int = 0
    length: int | None = None
    template: str = TEMPLATE

    kind: ClassVar[str] = "items"

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise unknown("source of items", self.source, SOURCES)
        check_template("calibration.template", self.template)
        check_seed(self.seed, "calibration")
        for name, least in (("samples", 1), ("heldout", 1), ("split", 0), ("length", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"calibration.{name}={value} is too small: choose {least} or more.")

    @property
    def task(self) -> str:
        """The name of the task: that of its file, without the ending."""
        return Path(self.path or "").stem if self.source == "file" else EMBEDDED

    def file(self) -> str | None:
        """The local file that is read, if any."""
        return (self.path or "") if self.source == "file" else None

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """The items for a search. Raises InputError if the task has too few items, or items without a question."""
        return self.rows(self.parts(tokenizer, prefix)[0], tokenizer)

    def rows(self, items: Sequence[Item], tokenizer: Any, template: str | None = None) -> Samples:
        """Items as token rows, in the given wording or in that of the settings."""
        draw = ItemDraw(len(items), self.seed, template or self.template)
        return draw.rows(items, tokenizer, self.path or self.source)

    def parts(self, tokenizer: Any, prefix: str = "calibration") -> tuple[list[Item], list[Item]]:
        """The items for the search and the held-out items. No item is in both."""
        first, second = self._pools(prefix)
        heldout = list(islice(self._fitting(second, tokenizer), self.heldout))
        taken = {item.key for item in heldout}
        rest = [item for item in first if item.key not in taken]
        order = np.random.default_rng(self.seed).permutation(len(rest))
        drawn = list(islice(self._fitting([rest[i] for i in order], tokenizer), self.samples))
        self._check(len(drawn), len(heldout), prefix)
        return drawn, heldout

    def _pools(self, prefix: str) -> tuple[list[Item], list[Item]]:
        """The items that may be drawn for the search, and those that may be held out, in the order of the split."""
        if self.source == EMBEDDED:
            return embedded_items("calibration"), embedded_items("heldout")
        path = existing(self.path, f"{prefix}.path")
        items = list({item.key: item for item in comparable_items(path)}.values())
        if items[0].continuation is not None:
            raise InputError(
                f"{path}: the items have no question (their choices are contexts), and a task needs a prompt "
                "that its choices share: give items with a question."
            )
        order = np.random.default_rng(self.split).permutation(len(items))
        pool = [items[i] for i in order]
        return pool, pool

    def _fitting(self, items: Sequence[Item], tokenizer: Any) -> Iterator[Item]:
        for item in items:
            longest = max(len(encode_pair(tokenizer, *pair)[0]) for pair in item.pairs(self.template))
            if self.length is None or longest <= self.length:
                yield item

    def _check(self, drawn: int, heldout: int, prefix: str) -> None:
        if drawn < self.samples or heldout < self.heldout:
            short = "" if self.length is None else f" of at most {self.length} tokens"
            raise InputError(
                f"the task {self.task} has {drawn + heldout} distinct items{short}, and {self.samples} for the "
                f"search and {self.heldout} held out are asked for: lower {prefix}.samples or {prefix}.heldout."
            )
