"""Multiple-choice items for objectives that compare answers: `calibration=commonsense`, `items_file`, ..."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pruning.calibration import sources
from pruning.calibration.drawn import Drawn, check_seed
from pruning.calibration.records import FIELD, Item
from pruning.calibration.samples import Row, Samples
from pruning.calibration.source_settings import is_local
from pruning.calibration.text import start_tokens
from pruning.core.errors import InputError

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
