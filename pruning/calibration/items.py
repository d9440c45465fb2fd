"""Multiple-choice items for objectives that compare answers: `calibration=commonsense`, `items_file`, ..."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pruning.calibration import LABELLED, file_of, sources
from pruning.calibration.item_files import FIELD, Item, comparable_items, existing, read_item
from pruning.calibration.samples import Row, Samples, drawn
from pruning.calibration.sources import embedded_items
from pruning.calibration.text import start_tokens
from pruning.core.errors import InputError, check_known, check_least

TEMPLATE = "Question: {question}\nAnswer:"
EMBEDDED = "commonsense"  # the items that come with this program
SOURCES = (EMBEDDED, "file", LABELLED)


def items_of(
    items: Sequence[Item], tokenizer: Any, source: str, seed: int, template: str = TEMPLATE
) -> Samples:
    """Items as token rows, one row for each choice of an item. A row's span covers the tokens of its choice.

    The prompt is `template` with the question filled in. A space and the choice follow the prompt, as in
    lm-evaluation-harness. Raises InputError if a choice adds no tokens to its prompt.
    """
    rows = tuple(
        Row(*encode_pair(tokenizer, *pair), number, choice, choice == item.answer)
        for number, item in enumerate(items)
        for choice, pair in enumerate(item.pairs(template))
    )
    return Samples("items", source, rows, seed, frozenset(item.key for item in items))


def drawn_items(
    pool: Sequence[Item], source: str, samples: int, seed: int, setting: str, disjoint: bool = False
) -> list[Item]:
    """`samples` items of a pool, drawn with `seed`. If `disjoint`, draws with different seeds share no item.

    Messages call `samples` by the name in `setting`. Raises InputError if the pool has too few items.
    """
    if len(pool) < samples:
        raise InputError(f"{source} has {len(pool)} items, fewer than {setting}={samples}: lower {setting}.")
    prefix = setting.rpartition(".")[0]
    chosen = drawn(len(pool), samples, seed, disjoint, prefix, f"{source} has {len(pool)} items")
    return [pool[i] for i in chosen]


@dataclass(frozen=True)
class Items:
    """`samples` items of a source, drawn by `drawn_items` and turned into rows by `items_of`.

    If `source` is `commonsense`, the items are one `part` of those that come with this program; if it is `file`,
    those in the file `path`. If it is `commonsense170k`, `path` is a hub data set, of which `split` and `revision`
    are read, or a local copy of its JSON file.
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
        check_least("calibration", self, samples=1, seed=0)
        check_template("calibration.template", self.template)

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """Draw the items. Raises InputError if the source has too few items or if one of them cannot be scored."""
        source, setting = self.path or self.source, f"{prefix}.samples"
        items = drawn_items(self.pool(prefix), source, self.samples, self.seed, setting, self.disjoint)
        return items_of(items, tokenizer, source, self.seed, self.template)

    def pool(self, prefix: str = "calibration") -> list[Item]:
        """All items of the source. If an item is malformed, raises InputError, which names the line."""
        if self.source == EMBEDDED:
            return embedded_items(self.part)
        if (file := file_of(self)) is None:
            hub = sources.TextSource("hub", self.path, split=self.split, revision=self.revision)
            records = hub.records(f"{prefix}.path=FILE")
            return [read_item(one, f"{self.path}, item {n}") for n, one in enumerate(records, start=1)]
        return comparable_items(existing(file, f"{prefix}.path"))


def check_template(setting: str, template: str) -> None:
    """Raise InputError unless a template contains {question}, no other field, and no backslash followed by an n.

    Only {question} is filled in; any other field would stay in the prompts as it is written. A backslash and an n
    would stay, too, because the command line does not turn them into a new line.
    """
    if FIELD not in template:
        raise InputError(f"{setting}={template!r} does not contain {FIELD}: add it.")
    fields = re.findall(r"\{\{.*?\}\}|\{%.*?%\}|\{\w+\}", template, re.DOTALL)  # as in Python and Jinja
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

    As in lm-eval, both are tokenised as one text. If BOS and the prompt alone have n tokens, the span starts at n.
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

    The setting `heldout` is the number of held-out items. They depend on `split` but not on `seed`, so draws with
    different seeds have the same held-out items. From the rest, `seed` draws `samples` items for the search. An item
    with two equal choices is left out. A repeated item is used once. If `source` is "commonsense", the items come
    with this program, whose part `calibration` is for the search and whose part `heldout` is held out.
    """

    source: str
    samples: int
    seed: int
    path: str | None = None
    heldout: int = 200
    split: int = 0
    template: str = TEMPLATE

    kind: ClassVar[str] = "items"

    def __post_init__(self) -> None:
        check_known("calibration", self, source=("file", EMBEDDED))
        check_template("calibration.template", self.template)
        check_least("calibration", self, samples=1, seed=0, heldout=1, split=0)
        if self.split and self.source == EMBEDDED:
            raise InputError(
                f"calibration.split={self.split} chooses items of a file, not of {EMBEDDED}: leave it out."
            )

    @property
    def task(self) -> str:
        """The name of the task: its file's name without the extension, or `commonsense`."""
        return Path(self.path or "").stem if self.source == "file" else EMBEDDED

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """The items for a search. Raises InputError if the task has too few items, or if one is malformed."""
        return self.rows(self.parts(prefix)[0], tokenizer)

    def rows(self, items: Sequence[Item], tokenizer: Any, template: str | None = None) -> Samples:
        """Items as token rows. Prompts are made from `template` or, if it is None, the template in the settings."""
        return items_of(items, tokenizer, self.path or self.source, self.seed, template or self.template)

    def parts(self, prefix: str = "calibration") -> tuple[list[Item], list[Item]]:
        """The items for the search and the held-out items. No item is in both."""
        if self.source == EMBEDDED:
            first, second = embedded_items("calibration"), embedded_items("heldout")
        else:
            path = existing(self.path, f"{prefix}.path")
            items = list({item.key: item for item in comparable_items(path)}.values())
            first = second = [items[i] for i in np.random.default_rng(self.split).permutation(len(items))]
        heldout = second[: self.heldout]
        taken = {item.key for item in heldout}
        rest = [item for item in first if item.key not in taken]
        chosen = [rest[i] for i in np.random.default_rng(self.seed).permutation(len(rest))][: self.samples]
        if len(chosen) < self.samples or len(heldout) < self.heldout:
            raise InputError(
                f"the task {self.task} has {len(chosen) + len(heldout)} distinct items, and {self.samples} "
                f"for the search and {self.heldout} held out are asked for: lower {prefix}.samples "
                f"or {prefix}.heldout."
            )
        return chosen, heldout
