"""A protocol: everything about a perplexity that can change its value, except the model and the mask.

Two protocols are compared aspect by aspect. A path from one protocol to another changes one aspect after the other.
Measurements along the path say what each aspect brings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from pruning.calibration.samples import Samples
from pruning.calibration.sources import embedded_text
from pruning.calibration.text import WindowDraw
from pruning.evaluation.corpus import Corpus

# The aspects in the order in which a path changes them: the precision last, because it needs the model again.
ASPECTS = {
    "text": ("source", "path", "name", "split", "column", "revision", "stream", "join", "documents"),
    "windows": ("window", "stride"),
    "number of windows": ("windows", "drawn"),
    "start token": ("start",),
    "last window": ("tail",),
    "precision": ("dtype",),
}
UNITS = {"window": " tokens", "stride": " apart", "drawn": " drawn with seed 0"}


@dataclass(frozen=True)
class Protocol:
    """The text and its windows, as in `Corpus`, and the precision of the model's weights.

    `drawn` is a number of windows that are drawn from all, as `eval=heldout` draws them; None if the windows are
    taken in order. `harness` names the program that measured, for people to read.
    """

    source: str = "hub"
    path: str | None = None
    name: str | None = None
    split: str = "test"
    column: str = "text"
    revision: str | None = None
    stream: bool = False
    join: str | None = "\n\n"
    documents: int | None = None
    window: int = 2048
    stride: int | None = None
    windows: int | None = None
    start: str = "window"
    tail: bool = True
    drawn: int | None = None
    dtype: str = "bfloat16"
    harness: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Give settings that change nothing their defaults, so that equal protocols compare equal."""
        if self.drawn is not None:
            plain: dict[str, Any] = {"stride": None, "windows": None, "start": "window", "tail": True}
        else:
            plain = {"stride": None} if self.stride == self.window else {}
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, corpus: Corpus, dtype: str, harness: str | None = None) -> Protocol:
        """The protocol of a corpus of `eval=perplexity`, for weights of the type `dtype`."""
        values = {
            name: getattr(corpus, name)
            for names in ASPECTS.values()
            for name in names
            if hasattr(corpus, name)
        }
        return cls(**values, dtype=dtype, harness=harness)

    @property
    def corpus(self) -> Corpus:
        """The settings of the text and its windows."""
        names = [name for names in ASPECTS.values() for name in names if name not in ("drawn", "dtype")]
        return Corpus(**{name: getattr(self, name) for name in names})

    def samples(self, tokenizer: Any, where: str, limit: int | None = None) -> Samples:
        """The windows; at most `limit` if it is given. Raises the errors of `Corpus.draw`."""
        if self.drawn is None:
            self.corpus.check(where)
            return self.corpus.draw(tokenizer, where, limit)
        draw = WindowDraw(min(self.drawn, limit or self.drawn), self.window, 0, where)
        draw.check()
        return draw.windows(embedded_text(self.source, "heldout"), tokenizer, self.source)

    def on(self, text: Protocol) -> Protocol:
        """The same protocol on the text of another one."""
        return _with(self, text, "text")

    def path_to(self, other: Protocol) -> Iterator[tuple[str, Protocol]]:
        """Yield (aspect, protocol): one aspect after the other becomes that of `other`, until it is `other`."""
        here = self
        for aspect in ASPECTS:
            if (changed := _with(here, other, aspect)) != here:
                here = changed
                yield aspect, here

    def described(self, aspect: str) -> str:
        """The values of an aspect, in a few words."""
        if aspect == "text":
            whole = self.path or self.source
            return f"{whole} {self.split}" if self.source == "hub" else whole
        values = [(name, getattr(self, name)) for name in ASPECTS[aspect]]
        known = [f"{value}{UNITS.get(name, '')}" for name, value in values if value is not None]
        return ", ".join(known) or "all"


def _with(protocol: Protocol, other: Protocol, aspect: str) -> Protocol:
    """A protocol with one aspect of another."""
    return replace(protocol, **{name: getattr(other, name) for name in ASPECTS[aspect]})


def first_documents(protocol: Protocol, where: str, count: int = 1) -> list[str]:
    """The first documents of a protocol's text. Raises InputError or UnreachableError if it cannot be read."""
    return list(islice(protocol.corpus.documents_of(where), count))
