"""Perplexity on text corpora (`eval=perplexity`); by default, the paper's WikiText-2, C4 and LAMBADA."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast, get_type_hints

from pruning.calibration.samples import Samples
from pruning.core.errors import InputError, unknown
from pruning.evaluation import Data, Measured
from pruning.evaluation.corpus import Corpus
from pruning.evaluation.text import perplexity, windows_record

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
