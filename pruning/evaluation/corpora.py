"""Perplexity on text corpora (`eval=perplexity`); by default, the paper's WikiText-2, C4 and LAMBADA."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, cast, get_type_hints

from pruning.calibration import sources
from pruning.calibration.item_files import hub_errors
from pruning.calibration.samples import Row, Samples
from pruning.calibration.text import SHORTEST, start_tokens
from pruning.core import storage
from pruning.core.errors import InputError, UnreachableError, first_line, unknown
from pruning.core.records import TERMS, with_error
from pruning.core.wheels import check_no_folder, use_hub
from pruning.evaluation import Data, Measured
from pruning.objective.perplexity import Perplexity

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward


log = logging.getLogger(__name__)

WHOLE = "a whole number, such as 1000000 instead of 1e6"
KINDS = {
    int: WHOLE,
    int | None: f"{WHOLE}, or null",
    str: "text",
    str | None: "text, or null",
    bool: "true or false",
}
TAKEN = ("heldout", "mean", "continuations")  # names that other metrics use


@dataclass(frozen=True)
class CorpusPerplexity:
    """Metrics `ppl/<name>` for each corpus of `corpora`; for a quick look, `limit` bounds the windows per corpus."""

    # Each value is a `Corpus` or a mapping of its settings, so that the command line can add a corpus.
    corpora: dict[str, Any]
    limit: int | None = None
    allow_overlap: bool = False

    compares: ClassVar[bool] = False
    averages: ClassVar[bool] = False

    def __post_init__(self) -> None:
        corpora = {name: _corpus(name, settings) for name, settings in self.corpora.items()}
        object.__setattr__(self, "corpora", corpora)
        check_names("eval.corpora", corpora)
        check_limit(self.limit)
        if not corpora:
            raise InputError("eval.corpora is empty: name at least one corpus.")
        for name, corpus in corpora.items():
            corpus.check(f"eval.corpora.{name}")

    def files(self) -> tuple[str, ...]:
        """The local files of the corpora."""
        return tuple(c.path for c in self.corpora.values() if c.source == "file" and c.path)

    def data(self, tokenizer: Any) -> dict[str, Samples]:
        """The windows of each corpus."""
        return {
            f"ppl/{name}": corpus.draw(tokenizer, f"eval.corpora.{name}", self.limit)
            for name, corpus in self.corpora.items()
        }

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The perplexity on a corpus's windows."""
        return corpus_perplexity(forward, name, data, mask, self.corpora[name.partition("/")[2]], self.limit)


def corpus_perplexity(
    forward: Forward, name: str, data: Data, mask: Mask, corpus: Corpus, limit: int | None
) -> Measured:
    """The perplexity on windows of a corpus, with a record of the settings of the windows."""
    samples = cast(Samples, data)
    log.info("evaluating %s with %s removed: %d windows", name, mask, samples.count)
    how = windows_record(samples) | {"limit": limit, "corpus": asdict(corpus)}
    return replace(perplexity(name, forward, samples, mask), how=how)


def _corpus(name: str, settings: Any) -> Corpus:
    """A corpus from its settings. Raises InputError if the settings are invalid."""
    if isinstance(settings, Corpus):
        return settings
    known = [item.name for item in fields(Corpus)]
    if not isinstance(settings, Mapping):
        raise InputError(
            f"eval.corpora.{name}={settings}: give settings such as {{source: file, path: FILE}}."
        )
    for key in settings:
        if key not in known:
            raise unknown(f"setting of eval.corpora.{name}", str(key), known)
    hints = get_type_hints(Corpus)
    for key, value in settings.items():
        if not isinstance(value, hints[key]) or isinstance(value, bool) != (hints[key] is bool):
            wanted = KINDS.get(hints[key], "another kind of value")
            raise InputError(f"eval.corpora.{name}.{key}={value!r} is not valid: give {wanted}.")
    return Corpus(**settings)


def check_names(where: str, names: Iterable[str]) -> None:
    """Raise InputError if a name cannot be used in the names of a metric and a folder."""
    for name in names:
        if not re.fullmatch(r"\w[\w.+-]*", str(name)) or name in TAKEN:
            raise InputError(
                f"{where}: {name!r} cannot name a metric: use letters, digits, '.', '_' and '-'; the names "
                f"{', '.join(TAKEN)} are taken."
            )


def check_limit(limit: int | None) -> None:
    """Raise InputError if `limit` is below 1."""
    if limit is not None and limit < 1:
        raise InputError(f"eval.limit={limit}: give at least 1, or null for all.")


# Cut text corpora into windows for perplexity.

LIMITS = ("documents", "windows", "stride")
STARTS = ("window", "text", "none")


@dataclass(frozen=True)
class Corpus:
    """The settings of a text corpus and of its windows.

    `source` is `hub` (the data set `path`, its configuration `name`, a `split` and `column`), `file` (`.txt`,
    `.jsonl` or `.parquet`), or the name of an embedded text, whose held-out part is used. Only the first
    `documents` documents are read. They are joined with `join` between them and tokenised as one text. If `join` is
    null, each document is a separate text. A text is cut into windows of `window` tokens. A window starts every
    `stride` tokens (null: no overlap). If a window overlaps the window before it, only the tokens that are new in it
    are scored, so no token counts twice. Only the first `windows` windows are used.

    If the tokenizer begins every text with a special token (BOS), `start` says where it stands: `window` (default)
    puts it before each window, `text` only before each text, as most papers' scripts do, and `none` nowhere. `window`
    includes it. With `tail: false`, a last window that is shorter than `window` is not scored.
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

    # `sources.documents` reads these two attributes besides the settings.
    part: ClassVar[str] = "heldout"
    seed: ClassVar[int] = 0

    def check(self, where: str) -> None:
        """Raise InputError if a setting is invalid. In the message, `where` is put before the setting's name."""
        if self.source not in sources.TEXTS:
            raise unknown(f"{where}.source", self.source, sources.TEXTS)
        sources.check_named(self.source, self.path, where)
        sources.check_path(self.source, self.path, where)
        if self.window < SHORTEST:
            raise InputError(f"{where}.window={self.window} is too short: give at least {SHORTEST} tokens.")
        for name in LIMITS:
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{where}.{name}={value}: give at least 1, or null.")
        if self.start not in STARTS:
            raise unknown(f"{where}.start", self.start, STARTS)
        if self.stride is not None and self.stride > self.window:
            raise InputError(
                f"{where}.stride={self.stride} is more than the window of {self.window} tokens, so tokens between "
                f"two windows would not be scored: give at most {self.window}, or null."
            )

    def draw(self, tokenizer: Any, where: str, limit: int | None = None) -> Samples:
        """The windows; at most `limit` windows if `limit` is given. Raises InputError if there are no windows."""
        most = min((n for n in (self.windows, limit) if n is not None), default=None)
        rows = tuple(islice(self._rows(tokenizer, where), most))
        if not rows:
            raise InputError(f"{where}: {self._label()} contains no text to score: give a longer text.")
        return Samples("text", self._label(), rows, 0)

    def _rows(self, tokenizer: Any, where: str) -> Iterator[Row]:
        first = start_tokens(tokenizer) if self.start != "none" else ()
        for ids in self._texts(tokenizer, where):
            if self.start == "text":
                rows = strided([*first, *ids], (), self.window, self.stride)
            else:
                rows = strided(ids, first, self.window, self.stride)
            yield from (row for row in rows if self.tail or len(row.input_ids) == self.window)

    def _texts(self, tokenizer: Any, where: str) -> Iterator[Sequence[int]]:
        """Yield the token ids of each text. Each text is cut into windows separately."""
        documents = islice(self.documents_of(where), self.documents)
        texts: Iterable[str] = documents if self.join is None else [self.join.join(documents)]
        for text in texts:
            yield tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def documents_of(self, where: str) -> Iterator[str]:
        """The documents of the text, in order. Raises InputError or UnreachableError if it cannot be read."""
        if self.source == "hub":
            yield from self._hub(where)
            return
        yield from sources.documents(self, where)

    def _hub(self, where: str) -> Iterator[str]:
        """Yield documents in the data set's order.

        Empty documents are kept, because WikiText perplexity is usually measured on all lines, joined.
        """
        import datasets

        check_no_folder(str(self.path), f"{where}.path")
        use_hub()
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
                "or evaluate on local text with eval=local 'eval.texts={NAME: FILE}'."
            ) from error

    def _label(self) -> str:
        if self.source != "hub":
            return self.path or self.source
        return "/".join(part for part in (self.path, self.name, self.split) if part)


def strided(ids: Sequence[int], first: tuple[int, ...], window: int, stride: int | None) -> Iterator[Row]:
    """Yield windows over a text; each scores only tokens that no earlier window scores.

    This follows the perplexity guide of transformers. Every window begins with the tokens `first`. The first token of
    a window is never scored, since no token before it predicts it.
    """
    payload = window - len(first)
    step = min(stride or payload, payload)
    scored = 0  # the end of the previous window: a number of tokens of the text
    for begin in range(0, len(ids), step):
        row = (*first, *ids[begin : begin + payload])
        end = begin + len(row) - len(first)
        start = max(1, len(row) - (end - scored))
        if start < len(row):
            yield Row(row, (start, len(row)))
        if end == len(ids):
            return
        scored = end


# The perplexity of a mask on windows of text.

HIGHEST = 700.0  # nats; exp(709.8) overflows a float


def perplexity(name: str, forward: Forward, samples: Samples, mask: Mask) -> Measured:
    """The exponential of the mean negative log-likelihood per token, and its standard error over the windows.

    The loss of each window is kept, so that masks can be compared window by window.
    """
    loss = Perplexity().bind(forward, samples)
    (score,) = loss([mask])
    value = math.exp(min(score.loss, HIGHEST))
    # The delta method: d exp(x) = exp(x) dx.
    metrics = with_error(name, value, value * loss.estimate.error(score.samples), samples.count)
    kept = {
        "losses": [*map(short, score.samples)],
        "tokens": [row.span[1] - row.span[0] for row in samples.rows],
    }
    return Measured(metrics, windows_record(samples), terms_file(kept))


def terms_file(terms: dict[str, Any]) -> dict[str, bytes]:
    """The file with what was measured on each sample, by its ending; see `Measured.files`."""
    return {TERMS: json.dumps(storage.sealed(terms)).encode()}


def short(loss: float) -> float:
    """A loss or a log-likelihood with the digits that are kept."""
    return float(f"{float(loss):.9g}")


def windows_record(samples: Samples) -> dict[str, Any]:
    """The record of text windows: source, number, tokens of the longest window, and number of scored tokens."""
    return {
        "source": samples.source,
        "windows": samples.count,
        "longest": samples.length,
        "tokens_scored": sum(row.span[1] - row.span[0] for row in samples.rows),
    }
