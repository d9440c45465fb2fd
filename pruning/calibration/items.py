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
from pruning.calibration.item_files import (
    FIELD,
    Item,
    comparable_items,
    existing,
    read_item,
)
from pruning.calibration.samples import Row, Samples, drawn
from pruning.calibration.sources import embedded_items
from pruning.calibration.text import start_tokens
from pruning.core.errors import InputError, check_known, check_least

TEMPLATE = "Question: {question}\nAnswer:"
EMBEDDED = "commonsense"  # the items that come with this program
SOURCES = (EMBEDDED, "file", "commonsense170k")


@dataclass(frozen=True)
class ItemDraw:
    """Draws `samples` items with `seed`. Each choice becomes a row; the row's span covers the choice's tokens.

    The prompt is `template` with the question filled in. A space and the choice follow the prompt, as in
    lm-evaluation-harness. `setting` is the name of `samples` in error messages, such as `calibration.samples`. If
    `disjoint`, draws with different seeds have no item in common.
    """

    samples: int
    seed: int
    template: str = TEMPLATE
    setting: str = "calibration.samples"
    disjoint: bool = False

    def check(self) -> None:
        """Raise InputError if a number is out of range or the template is wrong."""
        samples = self.setting.rpartition(".")[2]
        check_least(self._prefix, {samples: self.samples, "seed": self.seed}, **{samples: 1, "seed": 0})
        check_template(f"{self._prefix}.template", self.template)

    def rows(self, pool: Sequence[Item], tokenizer: Any, source: str) -> Samples:
        """Draw items as rows. Raises InputError if there are too few items or if an item cannot be scored."""
        if len(pool) < self.samples:
            raise InputError(
                f"{source} has {len(pool)} items, fewer than {self.setting}={self.samples}: "
                f"lower {self.setting}."
            )
        described = f"{source} has {len(pool)} items"
        chosen = drawn(len(pool), self.samples, self.seed, self.disjoint, self._prefix, described)
        items = [pool[i] for i in chosen]
        rows = tuple(
            Row(*encode_pair(tokenizer, *pair), number, choice, choice == item.answer)
            for number, item in enumerate(items)
            for choice, pair in enumerate(item.pairs(self.template))
        )
        return Samples("items", source, rows, self.seed, frozenset(item.key for item in items))

    @property
    def _prefix(self) -> str:
        """The settings group in error messages."""
        return self.setting.rpartition(".")[0]


@dataclass(frozen=True)
class Items:
    """`samples` items of a source, drawn as `ItemDraw` describes.

    `source` is `commonsense` (the items of this program, of which one `part` is read), `file` (the file `path`), or
    `commonsense170k` (the data set `path` with its `split` and `revision`, or a local copy `path` of its JSON file).
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
        check_known("calibration", self, source=SOURCES, part=sources.PARTS)
        sources.check_path(self.source, self.path, "calibration")
        self._draw("calibration").check()

    def file(self) -> str | None:
        """The local file that is read, if any."""
        local = self.source == "file" or bool(self.path and Path(self.path).expanduser().is_file())
        return (self.path or "") if local else None

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """Draw the items. Raises InputError if there are too few or if an item cannot be scored."""
        return self._draw(prefix).rows(self.pool(prefix), tokenizer, self.path or self.source)

    def pool(self, prefix: str = "calibration") -> list[Item]:
        """All items of the source. If an item is malformed, raises InputError, which names the line."""
        if self.source == EMBEDDED:
            return embedded_items(self.part)
        if (file := self.file()) is None:
            hub = sources.TextSource("hub", self.path, split=self.split, revision=self.revision)
            records = hub.records(f"{prefix}.path=FILE")
            return [read_item(one, f"{self.path}, item {n}") for n, one in enumerate(records, start=1)]
        return comparable_items(existing(file, f"{prefix}.path"))

    def _draw(self, prefix: str) -> ItemDraw:
        return ItemDraw(self.samples, self.seed, self.template, f"{prefix}.samples", self.disjoint)


def check_template(setting: str, template: str) -> None:
    """Raise InputError unless a template contains {question}, no other field, and no backslash followed by an n.

    Every prompt would show these literally: the command line does not turn a backslash and an n into a new line.
    """
    if FIELD not in template:
        raise InputError(f"{setting}={template!r} does not contain {FIELD}: add it.")
    fields = re.findall(r"\{\{.*?\}\}|\{%.*?%\}|\{\w+\}", template, re.DOTALL)  # Python and Jinja
    if others := sorted({*fields} - {FIELD}):
        raise InputError(
            f"{setting}={template!r} contains {', '.join(others)}, but only {FIELD} is filled in: remove the rest, "
            "or put it into the questions of the file."
        )
    if r"\n" in template:
        raise InputError(
            f"{setting}={template!r} contains a backslash and an n, which are not a new line: in bash, write "
            f"$'{setting}=\"...\\n...\"', which contains a new line."
        )


def encode_pair(tokenizer: Any, prompt: str, answer: str) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The token ids of prompt and answer together, and the span of the answer.

    The text is tokenised as a whole, as in lm-eval. If the prompt alone has n tokens, the answer begins at token n.
    """
    first = start_tokens(tokenizer)
    start = len(first) + len(tokenizer(prompt, add_special_tokens=False).input_ids)
    ids = (*first, *tokenizer(prompt + answer, add_special_tokens=False).input_ids)
    if not 1 <= start < len(ids):
        raise InputError(f"the answer {answer!r} has no tokens of its own after the prompt {prompt!r}.")
    return ids, (start, len(ids))


@dataclass(frozen=True)
class TaskItems:
    """Some items of a task for the search, and other items of the same task as held-out items (`experiment=tasks`).

    `samples` items are drawn with `seed` for the search; `heldout` other items are held out, which `split` alone
    decides. So two draws with different seeds have the same held-out items. An item is left out if it has more than
    `length` tokens with its longest answer (None: no limit), or if two of its choices are equal. If items are equal,
    one is used. If `source` is "commonsense", the items come with this program: those for the search from its
    calibration part, the held-out ones from its held-out part.
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
        check_known("calibration", self, source=("file", EMBEDDED))
        check_template("calibration.template", self.template)
        check_least("calibration", self, samples=1, seed=0, heldout=1, split=0, length=2)

    @property
    def task(self) -> str:
        """The name of the task: that of its file, without the ending."""
        return Path(self.path or "").stem if self.source == "file" else EMBEDDED

    def file(self) -> str | None:
        """The local file that is read, if any."""
        return (self.path or "") if self.source == "file" else None

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """The items for a search. Raises InputError if the task has too few items, or if one is malformed."""
        return self.rows(self.parts(tokenizer, prefix)[0], tokenizer)

    def rows(self, items: Sequence[Item], tokenizer: Any, template: str | None = None) -> Samples:
        """Items as token rows, with prompts from `template`, by default that of the settings."""
        draw = ItemDraw(len(items), self.seed, template or self.template)
        return draw.rows(items, tokenizer, self.path or self.source)

    def parts(self, tokenizer: Any, prefix: str = "calibration") -> tuple[list[Item], list[Item]]:
        """The items for the search and the held-out items. No item is in both."""
        first, second = self._pools(prefix)
        heldout = list(islice(self._fitting(second, tokenizer), self.heldout))
        taken = {item.key for item in heldout}
        rest = [item for item in first if item.key not in taken]
        order = np.random.default_rng(self.seed).permutation(len(rest))
        chosen = list(islice(self._fitting([rest[i] for i in order], tokenizer), self.samples))
        if len(chosen) < self.samples or len(heldout) < self.heldout:
            short = "" if self.length is None else f" of at most {self.length} tokens"
            raise InputError(
                f"the task {self.task} has {len(chosen) + len(heldout)} distinct items{short}, and {self.samples} "
                f"for the search and {self.heldout} held out are asked for: lower {prefix}.samples "
                f"or {prefix}.heldout."
            )
        return chosen, heldout

    def _pools(self, prefix: str) -> tuple[list[Item], list[Item]]:
        """The items that may be drawn for the search, and those that may be held out, in the order of the split."""
        if self.source == EMBEDDED:
            return embedded_items("calibration"), embedded_items("heldout")
        path = existing(self.path, f"{prefix}.path")
        items = list({item.key: item for item in comparable_items(path)}.values())
        order = np.random.default_rng(self.split).permutation(len(items))
        pool = [items[i] for i in order]
        return pool, pool

    def _fitting(self, items: Sequence[Item], tokenizer: Any) -> Iterator[Item]:
        for item in items:
            longest = max(len(encode_pair(tokenizer, *pair)[0]) for pair in item.pairs(self.template))
            if self.length is None or longest <= self.length:
                yield item
