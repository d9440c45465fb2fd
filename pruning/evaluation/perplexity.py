"""Perplexity on text corpora: `eval=perplexity`, the paper's WikiText-2, C4 and LAMBADA unless others are named."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pruning.calibration.samples import Samples
from pruning.core.errors import InputError, unknown
from pruning.evaluation import Data, Measured
from pruning.evaluation.corpus import Corpus
from pruning.evaluation.text import perplexity, windows_record

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

log = logging.getLogger(__name__)

TAKEN = ("heldout", "mean")  # names of metrics that mean something else


@dataclass(frozen=True)
class CorpusPerplexity:
    """Metrics `ppl/<name>` for each of the `corpora`; with `limit`, on so many windows of each, for a quick look."""

    corpora: dict[str, Any]  # of `Corpus`, or of its settings, so that the command line can add one
    limit: int | None = None
    allow_overlap: bool = False

    compares: ClassVar[bool] = False
    averages: ClassVar[bool] = False

    def __post_init__(self) -> None:
        made = {name: _corpus(name, settings) for name, settings in self.corpora.items()}
        object.__setattr__(self, "corpora", made)
        check_names("eval.corpora", made)
        check_limit(self.limit)
        if not made:
            raise InputError("eval.corpora is empty: name at least one corpus.")
        for name, corpus in made.items():
            corpus.check(f"eval.corpora.{name}")

    def files(self) -> tuple[str, ...]:
        """The files of corpora."""
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
    """The perplexity on windows of a corpus; how they were cut is recorded with it."""
    samples = cast(Samples, data)
    log.info("evaluating %s with %d blocks removed: %d windows", name, len(mask.dropped), samples.count)
    how = windows_record(samples) | {"limit": limit, "corpus": asdict(corpus)}
    return Measured(perplexity(name, forward, samples, mask), how)


def _corpus(name: str, settings: Any) -> Corpus:
    """A corpus from its settings; raises InputError for one that there is not."""
    if isinstance(settings, Corpus):
        return settings
    known = [item.name for item in fields(Corpus)]
    if not isinstance(settings, Mapping):
        raise InputError(
            f"eval.corpora.{name}={settings}: give settings, as in {{source: file, path: FILE}}."
        )
    for key in settings:
        if key not in known:
            raise unknown(f"setting of eval.corpora.{name}", str(key), known)
    return Corpus(**settings)


def check_names(where: str, names: Iterable[str]) -> None:
    """Raise InputError for a name that cannot be part of a metric's and a folder's."""
    for name in names:
        if not re.fullmatch(r"\w[\w.+-]*", str(name)) or name in TAKEN:
            raise InputError(
                f"{where}: {name!r} names metrics: use letters, digits, '.', '_', '-', and neither of "
                f"{' and '.join(TAKEN)}."
            )


def check_limit(limit: int | None) -> None:
    """Raise InputError for a quick look at nothing."""
    if limit is not None and limit < 1:
        raise InputError(f"eval.limit={limit}: give at least 1, or null for all.")
