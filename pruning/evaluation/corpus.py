"""Text corpora cut into windows for perplexity, by rules that are written down in the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from pruning.calibration import sources
from pruning.calibration.samples import Row, Samples
from pruning.calibration.source_settings import hub_errors
from pruning.calibration.text import SHORTEST, start_tokens
from pruning.core.errors import InputError, UnreachableError, first_line, unknown

LIMITS = ("documents", "windows", "stride")


@dataclass(frozen=True)
class Corpus:
    """A text and the way it is cut.

    `source` is `hub` (the data set `path`, its configuration `name`, a `split` and `column`), `file` (`.txt`,
    `.jsonl` or `.parquet`), or an embedded one, of which the held-out part is taken. The first `documents` documents
    are put together with `join` between them and tokenised as one text; without `join` (null) each stands alone. A
    text is cut into windows of `window` tokens, one every `stride` tokens (null: one behind the other). Of a window
    that overlaps the one before, only what is new is scored, so every token counts once. The first `windows` windows
    are taken.

    Where the tokenizer begins every text with a token of its own (BOS), so does every window, and `window` counts it.
    """

    source: str = "hub"
    path: str | None = None
    name: str | None = None
    split: str = "test"
    column: str = "text"
    revision: str | None = None
    stream: bool = False
    join: str | None = "\n\n"
    window: int = 2048
    stride: int | None = None
    documents: int | None = None
    windows: int | None = None

    # What reading an embedded or local source needs beside these settings.
    part: ClassVar[str] = "heldout"
    seed: ClassVar[int] = 0

    def check(self, where: str) -> None:
        """Raise InputError, with the setting's name behind `where`, for what makes no sense."""
        if self.source not in sources.TEXTS:
            raise unknown(f"{where}.source", self.source, sources.TEXTS)
        if self.source == "hub" and not self.path:
            raise InputError(f"{where}.path: the name of a data set is needed.")
        if self.window < SHORTEST:
            raise InputError(f"{where}.window={self.window} is too short: give at least {SHORTEST} tokens.")
        for name in LIMITS:
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{where}.{name}={value}: give at least 1, or null.")
        if self.stride is not None and self.stride > self.window:
            raise InputError(
                f"{where}.stride={self.stride} is more than the window of {self.window} tokens: tokens between "
                "two windows would not be scored."
            )

    def draw(self, tokenizer: Any, where: str, limit: int | None = None) -> Samples:
        """The windows; `limit` is another bound on their number, for a quick look."""
        most = min((n for n in (self.windows, limit) if n is not None), default=None)
        rows = tuple(islice(self._rows(tokenizer, where), most))
        if not rows:
            raise InputError(f"{where}: {self._label()} holds no text that could be scored.")
        return Samples("text", self._label(), rows, 0)

    def _rows(self, tokenizer: Any, where: str) -> Iterator[Row]:
        first = start_tokens(tokenizer)
        for ids in self._texts(tokenizer, where):
            yield from strided(ids, first, self.window, self.stride)

    def _texts(self, tokenizer: Any, where: str) -> Iterator[Sequence[int]]:
        """Token ids of each text that is cut on its own."""
        documents = islice(self._documents(where), self.documents)
        texts: Iterable[str] = documents if self.join is None else [self.join.join(documents)]
        for text in texts:
            yield tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def _documents(self, where: str) -> Iterator[str]:
        if self.source == "hub":
            yield from self._hub(where)
            return
        yield from sources.documents(self, where)

    def _hub(self, where: str) -> Iterator[str]:
        """Documents in the data set's own order, empty ones too: WikiText's convention is to join all its lines."""
        import datasets

        try:
            data = datasets.load_dataset(
                self.path, self.name, split=self.split, revision=self.revision, streaming=self.stream
            )
            for record in data:
                yield str(record[self.column] or "")
        except KeyError as error:
            raise InputError(f"{where}.column={self.column}: {self._label()} has no such column.") from error
        except hub_errors() as error:
            raise UnreachableError(
                f"the data set {self._label()} cannot be read ({first_line(error)}): check its name and the network, "
                "or evaluate on local text: eval=local 'eval.texts={NAME: FILE}'."
            ) from error

    def _label(self) -> str:
        if self.source != "hub":
            return self.path or self.source
        return "/".join(part for part in (self.path, self.name, self.split) if part)


def strided(ids: Sequence[int], first: tuple[int, ...], window: int, stride: int | None) -> Iterator[Row]:
    """Windows over a text as in the perplexity guide of transformers: each scores what no window before it did.

    A token at the very beginning of a window, with nothing before it to predict it from, is never scored.
    """
    payload = window - len(first)
    step = min(stride or payload, payload)
    scored = 0  # tokens of the text, counted from its beginning
    for begin in range(0, len(ids), step):
        row = (*first, *ids[begin : begin + payload])
        end = begin + len(row) - len(first)
        start = max(1, len(row) - (end - scored))
        if start < len(row):
            yield Row(row, (start, len(row)))
        if end == len(ids):
            return
        scored = end
