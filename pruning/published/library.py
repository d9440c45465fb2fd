"""Read the files of published masks, and choose among their entries.

Each file of `papers/` belongs to one paper: its sources, the protocols of its numbers, and its masks. The files are
parts of this program, and tests check each value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pruning.calibration.samples import Samples
from pruning.calibration.sources import embedded_text
from pruning.calibration.text import WindowDraw
from pruning.core.errors import InputError, unknown
from pruning.core.mask import Mask
from pruning.evaluation.corpora import Corpus

FOLDER = Path(__file__).parent
PAIRINGS = {
    "printed_together": "one paper prints the mask and the number",
    "same_authors": "the authors' repository has the mask, their paper the number",
    "inferred": "the mask and the number are from different sources",
}

# A protocol: everything about a perplexity that can change its value, except the model and the mask.
#
# Two protocols are compared aspect by aspect. A path from one protocol to another changes one aspect after the
# other. Measurements along the path say what each aspect brings.

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
        return cls(**{name: getattr(corpus, name) for name in CORPUS}, dtype=dtype, harness=harness)

    @property
    def corpus(self) -> Corpus:
        """The settings of the text and its windows."""
        return Corpus(**{name: getattr(self, name) for name in CORPUS})

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


CORPUS = [name for names in ASPECTS.values() for name in names if name not in ("drawn", "dtype")]


def _with(protocol: Protocol, other: Protocol, aspect: str) -> Protocol:
    """A protocol with one aspect of another."""
    return replace(protocol, **{name: getattr(other, name) for name in ASPECTS[aspect]})


# What the files hold


@dataclass(frozen=True)
class PrintedSource:
    """Where something is printed: an address, the place in it, and what was read to find it there."""

    address: str
    place: str
    read: str


@dataclass(frozen=True)
class ModelFacts:
    """A model of published masks: where it is, its number of blocks, and its approximate number of parameters."""

    name: str
    source: str
    path: str
    blocks: int
    parameters: float


@dataclass(frozen=True)
class Theirs:
    """The protocol of a published number. `unknown` are the settings that its source does not state.

    If `not_reproduced` is not None, it says why the protocol cannot be followed here.
    """

    corpus: str
    protocol: Protocol
    unknown: tuple[str, ...] = ()
    not_reproduced: str | None = None


@dataclass(frozen=True)
class PublishedNumber:
    """A published perplexity with its protocol, its source, and how sure it is that it belongs to the mask."""

    value: float
    theirs: Theirs
    source: PrintedSource
    pairing: str

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit."""
        digits = f"{self.value!r}".partition(".")[2]
        return 0.5 * 10.0 ** -max(len(digits), 2)


@dataclass(frozen=True)
class PublishedMask:
    """A published mask of a model, and its published numbers; `paper` is the name of its file.

    `stated` is the number of removed blocks that the source states; None if it states none.
    """

    name: str
    paper: str
    model: ModelFacts
    method: str
    mask: Mask
    mask_source: PrintedSource
    stated: int | None
    numbers: tuple[PublishedNumber, ...]
    note: str | None = None


@cache
def entries() -> tuple[PublishedMask, ...]:
    """All published masks, in the order of the files."""
    found = []
    for path in sorted((FOLDER / "papers").glob("*.yaml")):
        data = _read(path)
        sources = {name: PrintedSource(**raw) for name, raw in data["sources"].items()}
        protocols = {name: theirs(**raw) for name, raw in data["protocols"].items()}
        found += [_entry(path.stem, raw, sources, protocols) for raw in data["entries"]]
    return tuple(found)


def chosen(only: Sequence[str] | None) -> tuple[PublishedMask, ...]:
    """The entries whose paper, model or own name is in `only`, in the order of the files; None: all.

    Raises InputError, with similar names, if a name is unknown.
    """
    if only is None:
        return entries()
    known = {name for entry in entries() for name in _names(entry)}
    for name in only:
        if name not in known:
            near = str(unknown("published mask, paper or model", name, known)).partition(" Available:")[0]
            papers = {entry.paper for entry in entries()} | {entry.model.name for entry in entries()}
            raise InputError(
                f"--only: {near} Papers and models: {', '.join(sorted(papers))}; each mask has a name, which "
                "--dry-run lists."
            )
    return tuple(entry for entry in entries() if {*_names(entry)} & {*only})


def _names(entry: PublishedMask) -> tuple[str, ...]:
    return entry.name, entry.paper, entry.model.name


@cache
def models() -> Mapping[str, ModelFacts]:
    """The models of published masks, by their names."""
    return {name: ModelFacts(name, **facts) for name, facts in _read(FOLDER / "models.yaml").items()}


def _entry(
    paper: str, raw: Mapping[str, Any], sources: Mapping[str, PrintedSource], protocols: Mapping[str, Theirs]
) -> PublishedMask:
    numbers = [
        PublishedNumber(
            float(one["value"]), protocols[one["protocol"]], sources[one["source"]], one["pairing"]
        )
        for one in raw.get("numbers", ())
    ]
    model, removed = models()[raw["model"]], raw["removed"]
    mask = Mask.parse(model.blocks, removed if isinstance(removed, str) else " ".join(map(str, removed)))
    known = {name: value for name, value in raw.items() if name not in ("removed", "stated")}
    known |= {"model": model, "mask": mask, "mask_source": sources[raw["mask"]], "numbers": tuple(numbers)}
    return PublishedMask(paper=paper, stated=raw.get("stated", {}).get("blocks"), **known)


def theirs(corpus: str, not_reproduced: str | None = None, **settings: Any) -> Theirs:
    """A protocol from a file.

    A setting that is null there is unknown, and has the default of `Protocol`. `all` means no limit.
    """
    settings.pop("stated", None)  # where the source states it, for people to read
    missing = tuple(
        name for name, value in settings.items() if value is None and name not in ("join", "name")
    )
    known = {name: value for name, value in settings.items() if name not in missing}
    known |= {name: None for name in ("documents", "windows") if known.get(name) == "all"}
    return Theirs(corpus, Protocol(**known), missing, not_reproduced)


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
