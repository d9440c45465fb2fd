"""Perplexity on text corpora (`eval=perplexity`); by default, the paper's WikiText-2, C4 and LAMBADA."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from pruning.calibration.samples import Row, Samples
from pruning.calibration.sources import NOVEL, TextSource
from pruning.calibration.text import SHORTEST, start_tokens
from pruning.core.errors import InputError, check_least, unknown
from pruning.core.records import with_error
from pruning.evaluation import Data, Measured, check_names, short, terms_file
from pruning.objective.perplexity import Perplexity

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward


STARTS = ("window", "text", "none")
HIGHEST = 700.0  # nats; exp(709.8) overflows a float


@dataclass(frozen=True)
class Corpus:
    """The settings of a text corpus and its windows. `source` is a source of `TextSource`, or `novel`.

    If the source is a packaged text, only its held-out part is used.

    Only the first `documents` documents are read. They are joined with `join` between them and tokenised as
    one text. If `join` is null, each document is a separate text. A text is cut into windows of `window`
    tokens. A window starts every `stride` tokens (null: no overlap). If a window overlaps the previous one,
    only its new tokens are scored, so no token counts twice. Only the first `windows` windows are used.

    If the tokenizer begins texts with a special token (BOS), `start` says where: before each window
    (`window`, the default), before each text (`text`, as in most papers), or nowhere (`none`). The length
    `window` includes this token. With `tail: false`, a last window that is shorter than `window` is not scored.
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
    start: str = "window"
    tail: bool = True

    @property
    def text(self) -> TextSource:
        """The source of the text. The documents of a data set keep their order, and empty documents are kept."""
        return TextSource.of(self, part="heldout")

    def check(self, where: str) -> None:
        """Raise InputError if a setting is invalid. In the message, `where` is put before the setting's name."""
        self.text.check(where, (NOVEL,))
        check_least(where, self, window=SHORTEST, documents=1, windows=1, stride=1)
        if self.start not in STARTS:
            raise unknown(f"{where}.start", self.start, STARTS)
        if self.stride is not None and self.stride > self.window:
            raise InputError(
                f"{where}.stride={self.stride} is more than the window of {self.window} tokens, so tokens between "
                f"two windows would not be scored: give at most {self.window}, or null."
            )

    def draw(self, tokenizer: Any, where: str, limit: int | None = None) -> Samples:
        """The windows, at most `limit` if it is given. Raises InputError if there are no windows."""
        most = min((n for n in (self.windows, limit) if n is not None), default=None)
        rows = tuple(islice(self._rows(tokenizer, where), most))
        if not rows:
            raise InputError(f"{where}: {self.text.label} contains no text to score: give a longer text.")
        return Samples("text", self.text.label, rows, 0)

    def _rows(self, tokenizer: Any, where: str) -> Iterator[Row]:
        first = start_tokens(tokenizer) if self.start != "none" else ()
        documents = islice(self.text.documents(where), self.documents)
        texts: Iterable[str] = documents if self.join is None else [self.join.join(documents)]
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
            if self.start == "text":
                rows = strided([*first, *ids], (), self.window, self.stride)
            else:
                rows = strided(ids, first, self.window, self.stride)
            yield from (row for row in rows if self.tail or len(row.input_ids) == self.window)


def strided(ids: Sequence[int], first: tuple[int, ...], window: int, stride: int | None) -> Iterator[Row]:
    """Yield the windows of a text. In each, only tokens that no earlier window scores are scored.

    This follows transformers' perplexity guide. Every window begins with the tokens `first`. The first token
    of a window is never scored, since no token before it predicts it.
    """
    payload = window - len(first)
    step = min(stride or payload, payload)
    scored = 0  # the end of the previous window, in tokens of the text
    for begin in range(0, len(ids), step):
        row = (*first, *ids[begin : begin + payload])
        end = begin + len(row) - len(first)
        start = max(1, len(row) - (end - scored))
        if start < len(row):
            yield Row(row, (start, len(row)))
        if end == len(ids):
            return
        scored = end


@dataclass(frozen=True)
class CorpusPerplexity:
    """Measures `ppl/<name>` on each corpus of `corpora`; for a quick look, `limit` bounds the windows per corpus."""

    # Each value is a `Corpus` or a mapping of its settings, so that the command line can add a corpus.
    corpora: dict[str, Any]
    limit: int | None = None
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        corpora = {name: _corpus(name, settings) for name, settings in self.corpora.items()}
        object.__setattr__(self, "corpora", corpora)
        check_names("eval.corpora", corpora)
        check_least("eval", self, limit=1)
        if not corpora:
            raise InputError("eval.corpora is empty: name at least one corpus.")
        for name, corpus in corpora.items():
            corpus.check(f"eval.corpora.{name}")

    def data(self, tokenizer: Any) -> dict[str, Samples]:
        """The windows of each corpus."""
        return {
            f"ppl/{name}": corpus.draw(tokenizer, f"eval.corpora.{name}", self.limit)
            for name, corpus in self.corpora.items()
        }

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The perplexity on a corpus's windows."""
        how = {"limit": self.limit, "corpus": asdict(self.corpora[name.partition("/")[2]])}
        return perplexity(name, forward, cast(Samples, data), mask, **how)


def _corpus(name: str, settings: Any) -> Corpus:
    """A corpus from its settings. Raises InputError if a setting is unknown or its value has the wrong type."""
    if isinstance(settings, Corpus):
        return settings
    hints = get_type_hints(Corpus)
    if not isinstance(settings, Mapping):
        raise InputError(f"eval.corpora.{name}={settings}: give settings as in {{source: file, path: FILE}}.")
    for key, value in settings.items():
        if key not in hints:
            raise unknown(f"setting of eval.corpora.{name}", str(key), hints)
        if not isinstance(value, hints[key]):
            wanted = getattr(hints[key], "__name__", hints[key])
            raise InputError(
                f"eval.corpora.{name}.{key}={value!r} is not valid: give a value of type {wanted}."
            )
    return Corpus(**settings)


def perplexity(name: str, forward: Forward, samples: Samples, mask: Mask, **method: Any) -> Measured:
    """The exponential of the mean negative log-likelihood per token, and its standard error over the windows.

    The loss of each window is kept, so that masks can be compared window by window. `method` is added to the record.
    """
    loss = Perplexity().bind(forward, samples)
    (score,) = loss([mask])
    value = math.exp(min(score.loss, HIGHEST))
    # The delta method: d exp(x) = exp(x) dx.
    metrics = with_error(name, value, value * loss.estimate.error(score.samples), samples.count)
    tokens = [row.span[1] - row.span[0] for row in samples.rows]
    how = {"source": samples.source, "windows": samples.count, "longest": samples.length}
    kept = {"losses": [*map(short, score.samples)], "tokens": tokens}
    return Measured(metrics, how | {"tokens_scored": sum(tokens)} | method, terms_file(kept))
