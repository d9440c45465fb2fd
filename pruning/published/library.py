"""Read the files of published masks, and choose among their entries.

Each file of `papers/` belongs to one paper: its sources, the protocols of its numbers, and its masks. A mistake in a
file is an InputError that names the file and the field.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar

import yaml
from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError

from pruning.calibration.samples import Samples
from pruning.calibration.sources import TEXTS, embedded_text
from pruning.calibration.text import SHORTEST, WindowDraw
from pruning.core.errors import InputError, first_line, shown, unknown
from pruning.core.mask import Mask
from pruning.evaluation.corpora import STARTS, Corpus
from pruning.models.spec import DTYPES, SOURCES

FOLDER = Path(__file__).parent
PAIRINGS = {
    "printed_together": "one paper prints the mask and the number",
    "same_authors": "the authors' repository has the mask, their paper the number",
    "inferred": "the mask and the number are from different sources",
}

# The types of the fields in the files
CLOSED = ConfigDict(extra="forbid")  # no other fields
MOST = 2**53
Text: TypeAlias = Annotated[str, Strict(), Field(pattern=r"\S")]
Truth: TypeAlias = Annotated[bool, Strict()]
Count: TypeAlias = Annotated[int, Strict(), Field(ge=1, le=MOST)]
Length: TypeAlias = Annotated[int, Strict(), Field(ge=SHORTEST, le=MOST)]
Real: TypeAlias = Annotated[float, Strict(), Field(ge=1, le=MOST)]


def _one_of(names: Collection[str]) -> Any:
    return Field(pattern=f"^({'|'.join(names)})$")


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

    __pydantic_config__: ClassVar = CLOSED

    source: Annotated[Text, _one_of(TEXTS)] = "hub"
    path: Text | None = None
    name: Text | None = None
    split: Text = "test"
    column: Text = "text"
    revision: Text | None = None
    stream: Truth = False
    join: Annotated[str, Strict()] | None = "\n\n"
    documents: Count | None = None
    window: Length = 2048
    stride: Count | None = None
    windows: Count | None = None
    start: Annotated[Text, _one_of(STARTS)] = "window"
    tail: Truth = True
    drawn: Count | None = None
    dtype: Annotated[Text, _one_of(DTYPES)] = "bfloat16"
    harness: Text | None = field(default=None, compare=False)

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

    __pydantic_config__: ClassVar = CLOSED

    address: Text
    place: Text
    read: Text


@dataclass(frozen=True)
class ModelFacts:
    """A model of published masks: where it is, its number of blocks, and its approximate number of parameters."""

    __pydantic_config__: ClassVar = CLOSED

    name: Text
    source: Annotated[Text, _one_of(SOURCES)]
    path: Text
    blocks: Count
    parameters: Real


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
    """All published masks, in the order of the files. Raises InputError if a file is wrong."""
    return tuple(entry for path in sorted((FOLDER / "papers").glob("*.yaml")) for entry in _paper(path))


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
    """The models of published masks, by their names. Raises InputError if the file is wrong."""
    facts = _validated(dict[str, dict[str, Any]], _read(FOLDER / "models.yaml"), "models.yaml, ")
    return {
        name: _validated(ModelFacts, {"name": name, **one}, f"models.yaml, {name}.")
        for name, one in facts.items()
    }


@dataclass(frozen=True)
class _Terms:
    """The parts of a protocol in a file that are not settings."""

    corpus: Text
    stated: Text | None = None
    not_reproduced: Text | None = None


@dataclass(frozen=True)
class _PrintedNumber:
    __pydantic_config__: ClassVar = CLOSED

    corpus: Text
    value: Real
    protocol: Text
    source: Text
    pairing: Annotated[Text, _one_of(PAIRINGS)]


@dataclass(frozen=True)
class _Stated:
    __pydantic_config__: ClassVar = CLOSED

    blocks: Annotated[int, Strict(), Field(ge=0, le=MOST)]


@dataclass(frozen=True)
class _PrintedMask:
    __pydantic_config__: ClassVar = CLOSED

    name: Text
    model: Text
    method: Text
    removed: Any  # `_mask` reads it
    mask: Text
    stated: _Stated | None = None
    numbers: list[_PrintedNumber] = field(default_factory=list)
    note: Text | None = None


@dataclass(frozen=True)
class _Paper:
    __pydantic_config__: ClassVar = CLOSED

    sources: dict[str, PrintedSource]
    protocols: dict[str, dict[str, Any]]
    entries: list[_PrintedMask]
    title: Text | None = None
    arxiv: Text | None = None
    numbering: Text | None = None


def _paper(path: Path) -> list[PublishedMask]:
    """The entries of a file. Raises InputError, which begins with the file's name, if something is wrong."""
    where = f"{path.name}, "
    paper = _validated(_Paper, _read(path), where)
    protocols = {name: theirs(raw, f"{where}protocols.{name}.") for name, raw in paper.protocols.items()}
    found: dict[str, PublishedMask] = {}
    for printed in paper.entries:
        here = f"{where}{printed.name}."
        model = _named(models(), printed.model, f"{here}model")
        numbers = []
        for one in printed.numbers:
            protocol = _named(protocols, one.protocol, f"{here}numbers.protocol")
            source = _named(paper.sources, one.source, f"{here}numbers.source")
            numbers.append(PublishedNumber(float(one.value), protocol, source, one.pairing))
            if one.corpus != protocol.corpus or numbers.count(numbers[-1]) > 1:
                raise InputError(
                    f"{here}numbers: corpus={one.corpus}, value={one.value} is given twice, or its protocol is for "
                    "another corpus."
                )
        if printed.name in found:
            raise InputError(f"{where}entries: two masks have the name {printed.name}: give each its own.")
        found[printed.name] = PublishedMask(
            name=printed.name,
            paper=path.stem,
            model=model,
            method=printed.method,
            mask=_mask(model.blocks, printed.removed, f"{here}removed"),
            mask_source=_named(paper.sources, printed.mask, f"{here}mask"),
            stated=None if printed.stated is None else printed.stated.blocks,
            numbers=tuple(numbers),
            note=printed.note,
        )
    return list(found.values())


def theirs(raw: Mapping[str, Any], where: str = "") -> Theirs:
    """A protocol from a file. A setting that is null there is unknown, and has the default of `Protocol`.

    `all` means no limit. Raises InputError, which begins with `where`, if a setting is wrong.
    """
    notes = {name: raw[name] for name in _Terms.__dataclass_fields__ if name in raw}
    given = {name: value for name, value in raw.items() if name not in notes}
    missing = tuple(name for name, value in given.items() if value is None and name not in ("join", "name"))
    known = {name: value for name, value in given.items() if name not in missing}
    for name in ("documents", "windows"):
        if known.get(name) == "all":
            known[name] = None
    if "from" in known:
        known["source"] = known.pop("from")
    terms, protocol = _validated(_Terms, notes, where), _validated(Protocol, known, where)
    if protocol.stride is not None and protocol.stride > protocol.window:
        raise InputError(
            f"{where}stride={protocol.stride} is more than the window of {protocol.window}: give less."
        )
    return Theirs(terms.corpus, protocol, missing, terms.not_reproduced)


def _mask(blocks: int, removed: Any, where: str) -> Mask:
    words = removed.split() if isinstance(removed, str) else removed
    if not isinstance(words, list) or removed == "":
        raise InputError(f"{where}={removed!r} is not a list of blocks, nor a text such as a3 m7 b12.")
    words = [str(word) for word in words]
    try:
        mask = Mask.parse(blocks, " ".join(words))
    except InputError as error:
        raise InputError(f"{where}={removed}: {error}") from error
    units = [2 if mask.unit == "sublayer" and word[0] not in "am" else 1 for word in words]
    if len(mask.dropped) != sum(units):
        raise InputError(f"{where}={removed!r} repeats a block: leave it out.")
    return mask


_Kind = TypeVar("_Kind")
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def _named(known: Mapping[str, _Kind], name: str, where: str) -> _Kind:
    if name not in known:
        raise InputError(f"{where}={name!r}: {unknown('name', name, known)}")
    return known[name]


def _validated(kind: type[_Kind], raw: Any, where: str) -> _Kind:
    """The value as an instance of a type. Raises InputError, which begins with `where`, for the first wrong field."""
    try:
        value: _Kind = _adapter(kind).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{where}{place}={shown(first['input'])} is not valid: {first['msg']}.") from error
    return value


class _Loader(yaml.SafeLoader):
    """Reads YAML, and refuses a mapping that has a key twice: the first value would be lost."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        keys = [str(key.value) for key, _ in node.value]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"the key {twice[0]} is given twice: leave one out")
        return super().construct_mapping(node, deep)


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path.name}: {first_line(error)}.") from error
