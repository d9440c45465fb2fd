"""Text windows for objectives that need text: `calibration=pydoc`, `text_file`, `c4`, ..."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from pruning.calibration import sources
from pruning.calibration.drawn import Drawn, check_seed
from pruning.calibration.samples import Row, Samples
from pruning.core.errors import InputError

SHORTEST = 8  # the least number of tokens of a window


@dataclass(frozen=True)
class WindowDraw:
    """Draws `samples` windows of `length` tokens with `seed`.

    In error messages, `prefix` is the settings group, and `names` are the settings of `samples` and `length` in it.
    If `disjoint`, draws with different seeds have no window in common.
    """

    samples: int
    length: int
    seed: int
    prefix: str = "calibration"
    disjoint: bool = False
    names: tuple[str, str] = ("samples", "length")

    def check(self) -> None:
        """Raise InputError if a number is out of range."""
        samples, length = self._settings
        if self.samples < 1:
            raise InputError(f"{samples}={self.samples} is too few: give at least 1 window.")
        if self.length < SHORTEST:
            raise InputError(f"{length}={self.length} is too short: give at least {SHORTEST} tokens.")
        check_seed(self.seed, self.prefix)

    def windows(self, documents: Iterable[str], tokenizer: Any, source: str, stream: bool = False) -> Samples:
        """Draw windows from documents. Raises InputError if the documents are too short.

        With `stream`, only the documents that the windows need are read.
        """
        first = start_tokens(tokenizer)
        payload = self.length - len(first)
        needed = self.samples * payload
        tokens = token_ids(documents, tokenizer, needed if stream else None)
        available = len(tokens) // payload
        if available < self.samples:
            raise InputError(
                f"{source} is too short: it has {len(tokens)} tokens, but {self.samples} windows of "
                f"{self.length} need {needed}: lower {' or '.join(self._settings)}."
            )
        chosen = self._drawn.of(available, f"{source} has {available} windows of {self.length} tokens")
        cuts = (tokens[i * payload : (i + 1) * payload] for i in chosen)
        rows = tuple(Row((*first, *cut), (1, self.length)) for cut in cuts)
        return Samples("text", source, rows, self.seed)

    @property
    def _settings(self) -> tuple[str, str]:
        samples, length = self.names
        return f"{self.prefix}.{samples}", f"{self.prefix}.{length}"

    @property
    def _drawn(self) -> Drawn:
        return Drawn(self.samples, self.seed, self.disjoint, self.prefix)


@dataclass(frozen=True)
class Text:
    """`samples` windows of `length` tokens each, drawn without overlap.

    The documents of the source are tokenised one by one and concatenated. The result is cut into consecutive windows,
    and the seed chooses among them. If a hub data set is streamed, its documents are shuffled with the seed and the
    first windows are taken. If `disjoint`, draws with different seeds have no window in common. If the tokenizer
    begins every text with a special token (BOS), every window also begins with it, and `length` includes it. Every
    token of a window except the first is scored.
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
    disjoint: bool = False

    kind: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        sources.check_source(self, self.kind, sources.TEXTS)
        self._draw("calibration").check()
        if self.stream and self.disjoint:
            raise InputError(
                "calibration.stream=true takes the first windows of a shuffled data set, so draws can overlap: set "
                "calibration.stream=false, or calibration.disjoint=false."
            )

    def file(self) -> str | None:
        """The local file that is read, if any."""
        return (self.path or "") if self.source == "file" else None

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """Draw the windows. Raises InputError if the source is too short for them."""
        documents = sources.documents(self, prefix)
        return self._draw(prefix).windows(documents, tokenizer, self.path or self.source, self.stream)

    def _draw(self, prefix: str) -> WindowDraw:
        return WindowDraw(self.samples, self.length, self.seed, prefix, self.disjoint)


def start_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that a tokenizer puts before every text: BOS, or nothing."""
    bos = tokenizer.bos_token_id
    ids = tokenizer("a").input_ids
    return (bos,) if bos is not None and ids and ids[0] == bos else ()


def token_ids(documents: Iterable[str], tokenizer: Any, most: int | None) -> list[int]:
    """The token ids of the documents, concatenated. If `most` is given, only the first `most` ids are returned."""
    ids: list[int] = []
    for batch in _batches(documents, 64):
        for document in tokenizer(batch, add_special_tokens=False, verbose=False).input_ids:
            ids.extend(document)
        if most is not None and len(ids) >= most:
            return ids[:most]
    return ids


def _batches(documents: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, size)):
        yield batch
