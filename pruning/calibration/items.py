"""Multiple-choice items for objectives that compare answers: `calibration=commonsense`, `items_file`, ..."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pruning.calibration import sources
from pruning.calibration.samples import Row, Samples
from pruning.calibration.sources import Item
from pruning.calibration.text import start_tokens
from pruning.errors import InputError

FIELD = "{question}"


@dataclass(frozen=True)
class Items:
    """`samples` items, drawn with a seed; each choice becomes a row whose span is the answer's tokens.

    `template` makes the prompt; a space and the choice follow it, as in lm-evaluation-harness.
    """

    source: str
    samples: int
    seed: int
    path: str | None = None
    split: str = "train"
    revision: str | None = None
    template: str = "Question: {question}\nAnswer:"
    part: str = "calibration"

    kind: ClassVar[str] = "items"

    def __post_init__(self) -> None:
        sources.check_settings(self, sources.ITEMS)
        sources.check_seed(self.seed)
        if self.samples < 1:
            raise InputError(f"calibration.samples={self.samples} is too few: give at least 1 item.")
        if FIELD not in self.template:
            raise InputError(f"calibration.template={self.template!r} must contain {FIELD}.")

    def file(self) -> str | None:
        """The local file that is read, if any."""
        return (self.path or "") if sources.is_local(self) else None

    def draw(self, tokenizer: Any) -> Samples:
        """Draw the items. Raises InputError where there are too few, or one cannot be scored."""
        pool = sources.items(self)
        if len(pool) < self.samples:
            raise InputError(
                f"{self._where()} is too short: it has {len(pool)} items and calibration.samples="
                f"{self.samples} are needed: lower calibration.samples."
            )
        rng = np.random.default_rng(self.seed)
        chosen = np.sort(rng.choice(len(pool), size=self.samples, replace=False))
        drawn = [pool[i] for i in chosen]
        rows = [row for number, item in enumerate(drawn) for row in self._rows(tokenizer, number, item)]
        keys = frozenset(item.key for item in drawn)
        return Samples("items", self._where(), tuple(rows), self.seed, keys)

    def _rows(self, tokenizer: Any, number: int, item: Item) -> list[Row]:
        prompt = self.template.replace(FIELD, item.question)
        return [
            Row(*encode_pair(tokenizer, prompt, f" {text}"), number, choice, choice == item.answer)
            for choice, text in enumerate(item.choices)
        ]

    def _where(self) -> str:
        return self.path if self.path else self.source


def encode_pair(tokenizer: Any, prompt: str, answer: str) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Token ids of prompt and answer together, and the span of those that belong to the answer.

    As lm-evaluation-harness does it: the text is tokenised whole, and the answer is what lies behind as
    many tokens as the prompt alone has, so that a token is never split at the seam.
    """
    start = len(_encode(tokenizer, prompt))
    ids = _encode(tokenizer, prompt + answer)
    if not 1 <= start < len(ids):
        raise InputError(f"the answer {answer!r} has no tokens of its own behind the prompt {prompt!r}.")
    return tuple(ids), (start, len(ids))


def _encode(tokenizer: Any, text: str) -> Sequence[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return [*start_tokens(tokenizer), *ids]
