"""Multiple-choice items for objectives that compare answers: `calibration=commonsense`, `items_file`, ..."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pruning.calibration import sources
from pruning.calibration.item_files import FIELD, Item, comparable_items, existing, is_local
from pruning.calibration.samples import Drawn, Row, Samples, check_seed
from pruning.calibration.sources import embedded_items
from pruning.calibration.text import start_tokens
from pruning.core.errors import InputError, unknown

TEMPLATE = "Question: {question}\nAnswer:"
OTHERS = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{\w+\}", re.DOTALL)  # fields of Python and of Jinja


@dataclass(frozen=True)
class ItemDraw:
    """Draws `samples` items with `seed`. Each choice becomes a row; the row's span covers the choice's tokens.

    The prompt is `template` with the question filled in. `setting` is the name of `samples` in error messages, such
    as `calibration.samples`. If `disjoint`, draws with different seeds have no item in common.
    """

    samples: int
    seed: int
    template: str = TEMPLATE
    setting: str = "calibration.samples"
    disjoint: bool = False

    def check(self) -> None:
        """Raise InputError if a number is out of range or the template does not contain {question}."""
        if self.samples < 1:
            raise InputError(f"{self.setting}={self.samples} is too few: give at least 1 item.")
        check_seed(self.seed, self._prefix)
        check_template(f"{self._prefix}.template", self.template)

    def rows(self, pool: Sequence[Item], tokenizer: Any, source: str) -> Samples:
        """Draw items as rows. Raises InputError if there are too few items or if an item cannot be scored."""
        check_fields(f"{self._prefix}.template", self.template)
        if len(pool) < self.samples:
            raise InputError(
                f"{source} has {len(pool)} items, fewer than {self.setting}={self.samples}: "
                f"lower {self.setting}."
            )
        draw = Drawn(self.samples, self.seed, self.disjoint, self._prefix)
        drawn = [pool[i] for i in draw.of(len(pool), f"{source} has {len(pool)} items")]
        rows = [row for number, item in enumerate(drawn) for row in self._rows(tokenizer, number, item)]
        return Samples("items", source, tuple(rows), self.seed, frozenset(item.key for item in drawn))

    @property
    def _prefix(self) -> str:
        """The settings group in error messages."""
        return self.setting.rpartition(".")[0]

    def _rows(self, tokenizer: Any, number: int, item: Item) -> list[Row]:
        return [
            Row(*encode_pair(tokenizer, *pair), number, choice, choice == item.answer)
            for choice, pair in enumerate(item.pairs(self.template))
        ]


@dataclass(frozen=True)
class Items:
    """`samples` items, drawn with a seed. Each choice becomes a row; the row's span covers the choice's tokens.

    The prompt is `template` with the question filled in. A space and the choice follow the prompt, as in
    lm-evaluation-harness. If `disjoint`, draws with different seeds have no item in common.
    """

    source: str
    samples: int
    seed: int
    path: str | None = None
    split: str = "train"
    revision: str | None = None
    template: str = TEMPLATE
    part: str = "calibration"
    disjoint: bool = False

    kind: ClassVar[str] = "items"

    def __post_init__(self) -> None:
        sources.check_source(self, self.kind, sources.ITEMS)
        self._draw("calibration").check()

    def file(self) -> str | None:
        """The local file that is read, if any."""
        return (self.path or "") if is_local(self) else None

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """Draw the items. Raises InputError if there are too few or if an item cannot be scored."""
        return self._draw(prefix).rows(sources.items(self, prefix), tokenizer, self.path or self.source)

    def _draw(self, prefix: str) -> ItemDraw:
        return ItemDraw(self.samples, self.seed, self.template, f"{prefix}.samples", self.disjoint)


def check_template(setting: str, template: str) -> None:
    """Raise InputError if a template does not contain {question}."""
    if FIELD not in template:
        raise InputError(f"{setting}={template!r} does not contain {FIELD}: add it.")


def check_fields(setting: str, template: str) -> None:
    """Raise InputError if a template contains a field that nothing fills in, or a backslash and an n for a new line.

    Every prompt would show them as they are. The command line turns no backslash and n into a new line.
    This is checked when items are drawn, so that a recorded configuration with such a template can still be read.
    """
    if others := sorted({*OTHERS.findall(template)} - {FIELD}):
        raise InputError(
            f"{setting}={template!r} contains {', '.join(others)}, but only {FIELD} is filled in: remove the rest, "
            "or put it into the questions of the file."
        )
    if r"\n" in template:
        raise InputError(
            f"{setting}={template!r} contains a backslash and an n, which are no new line: in bash, write "
            f"$'{setting}=\"...\\n...\"', which contains a new line."
        )


def encode_pair(tokenizer: Any, prompt: str, answer: str) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The token ids of prompt and answer together, and the span of the answer.

    As in lm-evaluation-harness, the text is tokenised as a whole. If the prompt, tokenised alone,
    has n tokens, the answer's span begins at token n.
    """
    start = len(_encode(tokenizer, prompt))
    ids = _encode(tokenizer, prompt + answer)
    if not 1 <= start < len(ids):
        raise InputError(f"the answer {answer!r} has no tokens of its own after the prompt {prompt!r}.")
    return tuple(ids), (start, len(ids))


def _encode(tokenizer: Any, text: str) -> Sequence[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return [*start_tokens(tokenizer), *ids]


# Some items of a task for the search, and other items of the same task held out: `calibration=task_items`.
#
# `experiment=tasks` draws the items of each task in this way, and measures on the held-out items.

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
