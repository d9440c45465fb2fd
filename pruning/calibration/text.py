"""Text windows for objectives that predict text: `calibration=pydoc`, `text_file`, `c4`, ..."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from pruning.calibration import sources
from pruning.calibration.samples import Row, Samples
from pruning.errors import InputError


@dataclass(frozen=True)
class Text:
    """`samples` windows of `length` tokens each, drawn without overlap.

    The documents of the source are tokenised one by one and concatenated. The stream is cut into
    consecutive windows, of which a seeded choice is taken; where a hub data set is streamed, its documents
    are shuffled with the seed and the first windows are taken. Where the tokenizer begins every text with
    a token of its own (BOS), so does every window, and `length` counts it. Every token of a window but the
    first is scored.
    """

    source: str
    samples: int
    length: int
    seed: int
    path: str | None = None
    name: str | None = None
    split: str = "train"
    column: str = "text"
    revision: str | None = None
    stream: bool = False
    part: str = "calibration"

    kind: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        sources.check_settings(self, sources.TEXTS)
        sources.check_seed(self.seed)
        if self.samples < 1:
            raise InputError(f"calibration.samples={self.samples} is too few: give at least 1 window.")
        if self.length < 8:
            raise InputError(f"calibration.length={self.length} is too short: give at least 8 tokens.")

    def file(self) -> str | None:
        """The local file that is read, if any."""
        return (self.path or "") if self.source == "file" else None

    def draw(self, tokenizer: Any) -> Samples:
        """Draw the windows. Raises InputError where the source is too short for them."""
        first = start_tokens(tokenizer)
        payload = self.length - len(first)
        tokens = self._tokens(tokenizer, self.samples * payload)
        available = len(tokens) // payload
        if available < self.samples:
            raise InputError(
                f"{self._where()} is too short: it has {len(tokens)} tokens and {self.samples} windows of "
                f"{self.length} need {self.samples * payload}: lower calibration.samples or calibration.length."
            )
        rng = np.random.default_rng(self.seed)
        chosen = np.sort(rng.choice(available, size=self.samples, replace=False))
        windows = (tokens[i * payload : (i + 1) * payload] for i in chosen)
        rows = tuple(Row((*first, *window), (1, self.length)) for window in windows)
        return Samples("text", self._where(), rows, self.seed)

    def _tokens(self, tokenizer: Any, needed: int) -> list[int]:
        ids: list[int] = []
        for batch in _batches(sources.documents(self), 64):
            for document in tokenizer(batch, add_special_tokens=False, verbose=False).input_ids:
                ids.extend(document)
            if self.stream and len(ids) >= needed:
                return ids[:needed]
        return ids

    def _where(self) -> str:
        return self.path if self.path else self.source


def start_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that a tokenizer puts before every text by its own convention: BOS, or nothing."""
    bos = tokenizer.bos_token_id
    ids = tokenizer("a").input_ids
    return (bos,) if bos is not None and ids and ids[0] == bos else ()


def _batches(documents: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, size)):
        yield batch
