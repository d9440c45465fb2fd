"""Read the files of published masks, and choose among their entries.

Each file of `papers/` belongs to one paper: its sources, the protocols of its numbers, and its masks. A mistake in a
file is an InputError that names the file and the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from pruning.calibration.samples import Samples
from pruning.calibration.sources import TEXTS, embedded_text
from pruning.calibration.text import SHORTEST, WindowDraw
from pruning.core.errors import InputError, first_line, unknown
from pruning.core.mask import Mask
from pruning.evaluation.corpora import STARTS, Corpus
from pruning.models.spec import DTYPES, SOURCES

# The types of what is read from the files of published masks.

PAIRINGS = {
    "printed_together": "one paper prints the mask and the number",
    "same_authors": "the authors' repository has the mask, their paper the number",
    "inferred": "the mask and the number are from different sources",
}


@dataclass(frozen=True)
class Source:
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
class Number:
    """A published perplexity with its protocol, its source, and how sure it is that it belongs to the mask."""

    value: float
    theirs: Theirs
    source: Source
    pairing: str

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit."""
        digits = f"{self.value!r}".partition(".")[2]
        return 0.5 * 10.0 ** -max(len(digits), 2)


@dataclass(frozen=True)
class Entry:
    """A published mask of a model, and its published numbers; `paper` is the name of its file.

    `stated` is the number of removed blocks that the source states; None if it states none.
    """

    name: str
    paper: str
    model: ModelFacts
    method: str
    mask: Mask
    mask_source: Source
    stated: int | None
    numbers: tuple[Number, ...]
    note: str | None = None


FOLDER = Path(__file__).parent
OURS = "ours"  # the file of this project's own masks
NOTES = ("corpus", "stated", "not_reproduced", "from")  # keys of a protocol that are not settings
HIGHEST = 2**53
Check: TypeAlias = Callable[[str, Any], Any]  # returns the value, or raises InputError; the text is its place

COMPARED = ("documents", "windows")  # `all` in a file means no limit; null means that the source does not say


@cache
def entries() -> tuple[Entry, ...]:
    """All published masks, in the order of the files. Raises InputError if a file is wrong."""
    found = [entry for path in sorted((FOLDER / "papers").glob("*.yaml")) for entry in _paper(path)]
    _check_names(found, "")
    return tuple(found)


def _check_names(found: Sequence[Entry], where: str) -> None:
    names = [entry.name for entry in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{where}two published masks have the name {twice[0]}: give each its own.")


def chosen(only: Sequence[str] | None) -> tuple[Entry, ...]:
    """The entries whose paper, model or own name is in `only`, in the order of the files; None: all.

    Raises InputError, with similar names, if a name is unknown.
    """
    if only is None:
        return entries()
    known = {word for entry in entries() for word in _names(entry)}
    for name in only:
        if name not in known:
            papers = {entry.paper for entry in entries()} | {entry.model.name for entry in entries()}
            near = unknown("published mask, paper or model", name, known)
            raise InputError(
                f"published.only: {str(near).partition(' Available:')[0]} Papers and models: "
                f"{', '.join(sorted(papers))}; each mask has a name, which published.dry_run=true lists."
            )
    return tuple(entry for entry in entries() if {*_names(entry)} & {*only})


def _names(entry: Entry) -> tuple[str, ...]:
    return entry.name, entry.paper, entry.model.name


@cache
def models() -> Mapping[str, ModelFacts]:
    """The models of published masks, by their names. Raises InputError if the file is wrong."""
    file = FOLDER / "models.yaml"
    data = _record(_read(file), f"{file.name}, ")
    return {name: ModelFacts(name, **_fields(m, f"{file.name}, {name}: ", MODEL)) for name, m in data.items()}


class _Loader(yaml.SafeLoader):
    """Reads YAML, and refuses a mapping that has a key twice: the first value would be lost."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        keys = [key.value for key, _ in node.value]
        if twice := sorted({key for key in map(str, keys) if keys.count(key) > 1}):
            raise InputError(f"the key {twice[0]} is given twice: leave one out.")
        return super().construct_mapping(node, deep)


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, InputError) as error:
        raise InputError(f"{path.name}: {first_line(error)}.") from error


def _paper(path: Path) -> list[Entry]:
    data = _fields(_read(path), f"{path.name}, ", PAPER, ("title", "arxiv", "numbering"))
    sources = {
        name: Source(**_fields(raw, f"{path.name}, sources.{name}: ", SOURCE))
        for name, raw in data["sources"].items()
    }
    protocols = {
        name: theirs(raw, f"{path.name}, protocols.{name}: ") for name, raw in data["protocols"].items()
    }
    found = []
    for raw in data["entries"]:
        name = raw.get("name", raw) if isinstance(raw, dict) else raw
        found.append(_entry(path.stem, raw, f"{path.name}, {name}: ", sources, protocols))
    _check_names(found, f"{path.name}, entries: ")
    return found


def _entry(
    paper: str, raw: Any, where: str, sources: Mapping[str, Source], protocols: Mapping[str, Theirs]
) -> Entry:
    known = {**ENTRY, "model": _one_of(models()), "mask": _one_of(sources)}
    data = _fields(raw, where, known, ("stated", "numbers", "note"))
    model = models()[data["model"]]
    numbers = [
        _number(number, f"{where}numbers[{place}].", sources, protocols)
        for place, number in enumerate(data.get("numbers", ()))
    ]
    for number in numbers:
        if numbers.count(number) > 1:
            raise InputError(
                f"{where}numbers has {number.value} twice for one protocol and source: leave one out."
            )
    return Entry(
        name=data["name"],
        paper=paper,
        model=model,
        method=data["method"],
        mask=_mask(model.blocks, data["removed"], f"{where}removed"),
        mask_source=sources[data["mask"]],
        stated=data.get("stated", {}).get("blocks"),
        numbers=tuple(numbers),
        note=data.get("note"),
    )


def _mask(blocks: int, removed: Any, where: str) -> Mask:
    if not isinstance(removed, str | list):
        raise _wrong(where, removed, "a list of blocks, or a text such as a3 m7 b12")
    if removed == "":
        raise _wrong(where, removed, "[] for the dense model")
    words = removed.split() if isinstance(removed, str) else [str(unit) for unit in removed]
    try:
        mask = Mask.parse(blocks, " ".join(words))
    except InputError as error:
        raise InputError(f"{where}={removed}: {error}") from error
    units = [2 if mask.unit == "sublayer" and word[0] not in "am" else 1 for word in words]
    if len(mask.dropped) != sum(units):
        raise _wrong(where, removed, "without repetitions")
    return mask


def _number(raw: Any, where: str, sources: Mapping[str, Source], protocols: Mapping[str, Theirs]) -> Number:
    data = _fields(raw, where, {**NUMBER, "protocol": _one_of(protocols), "source": _one_of(sources)})
    protocol = protocols[data["protocol"]]
    if data["corpus"] != protocol.corpus:
        raise InputError(
            f"{where}corpus={data['corpus']}: its protocol is for {protocol.corpus}: give the same corpus in both."
        )
    return Number(float(data["value"]), protocol, sources[data["source"]], data["pairing"])


def theirs(raw: Any, where: str = "") -> Theirs:
    """A protocol from a file. A setting that is null there is unknown, and has the default of `Protocol`.

    Raises InputError, which begins with `where`, if a setting is wrong.
    """
    raw = _fields(raw, where, PROTOCOL, PROTOCOL.keys() - {"corpus"})
    settings = {name: value for name, value in raw.items() if name not in NOTES}
    missing = tuple(
        name for name, value in settings.items() if value is None and name not in ("join", "name")
    )
    known = {name: None if value == "all" and name in COMPARED else value for name, value in settings.items()}
    if "from" in raw:
        known["source"] = raw["from"]
    kept: dict[str, Any] = {name: value for name, value in known.items() if name not in missing}
    protocol = Protocol(**kept)
    if protocol.stride is not None and protocol.stride > protocol.window:
        raise InputError(
            f"{where}stride={protocol.stride} is more than the window of {protocol.window}: give less."
        )
    return Theirs(raw["corpus"], protocol, missing, raw.get("not_reproduced"))


def _wrong(where: str, value: Any, wanted: str) -> InputError:
    return InputError(f"{where}={value!r} is not valid: give {wanted}.")


def _fields(
    raw: Any, where: str, checks: Mapping[str, Check], optional: Collection[str] = ()
) -> dict[str, Any]:
    """The fields of a record, each checked. Raises InputError, which begins with `where`, if one is wrong.

    All fields but those in `optional` are needed, and there are no others.
    """
    data = _record(raw, where)
    for name in data:
        if name not in checks:
            raise InputError(f"{where}{unknown('key', name, checks)}")
    if lacking := [name for name in checks if name not in data and name not in optional]:
        raise InputError(f"{where}{lacking[0]} is missing: give it.")
    return {name: checks[name](f"{where}{name}", value) for name, value in data.items()}


def _record(raw: Any, where: str) -> dict[str, Any]:
    """A mapping whose keys are texts. Raises InputError for anything else."""
    if not isinstance(raw, dict) or not all(isinstance(name, str) for name in raw):
        raise InputError(f"{where}{raw!r} is not a mapping of names: write NAME: VALUE.")
    return raw


def _text(where: str, value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        raise _wrong(where, value, "a text")
    return value


def _any_text(where: str, value: Any) -> Any:
    if not isinstance(value, str):
        raise _wrong(where, value, "a text")
    return value


def _truth(where: str, value: Any) -> Any:
    if not isinstance(value, bool):
        raise _wrong(where, value, "true or false")
    return value


def _whole(least: int) -> Check:
    def check(where: str, value: Any) -> Any:
        if type(value) is not int or not least <= value <= HIGHEST:
            raise _wrong(where, value, f"a whole number from {least} on")
        return value

    return check


def _real(where: str, value: Any) -> Any:
    if type(value) not in (int, float) or not 1 <= value <= HIGHEST:
        raise _wrong(where, value, "a number, 1 or more")
    return value


def _one_of(names: Collection[str]) -> Check:
    def check(where: str, value: Any) -> Any:
        if not isinstance(value, str) or value not in names:
            raise InputError(f"{where}={value!r}: {unknown('name', str(value), names)}")
        return value

    return check


def _or_null(check: Check) -> Check:
    return lambda where, value: None if value is None else check(where, value)


def _all_or(check: Check) -> Check:
    return lambda where, value: value if value == "all" else check(where, value)


def _named(where: str, value: Any) -> Any:
    return _record(value, f"{where}: ")


def _listed(where: str, value: Any) -> Any:
    if not isinstance(value, list):
        raise _wrong(where, value, "a list")
    return value


def _stated(where: str, value: Any) -> Any:
    return _fields(value, f"{where}.", {"blocks": _whole(0)})


def _as_it_is(_where: str, value: Any) -> Any:
    return value


# The keys of each record in the files, and what checks their values; `_mask` checks `removed`.
PAPER: dict[str, Check] = {
    **{"title": _text, "arxiv": _or_null(_text), "numbering": _text},
    **{"sources": _named, "protocols": _named, "entries": _listed},
}
SOURCE: dict[str, Check] = {"address": _text, "place": _text, "read": _text}
MODEL: dict[str, Check] = {
    **{"source": _one_of(SOURCES), "path": _text},
    **{"blocks": _whole(1), "parameters": _real},
}
ENTRY: dict[str, Check] = {
    **{"name": _text, "model": _text, "method": _text, "removed": _as_it_is, "mask": _text},
    **{"stated": _stated, "numbers": _listed, "note": _text},
}
NUMBER: dict[str, Check] = {
    **{"corpus": _text, "value": _real, "protocol": _text, "source": _text, "pairing": _one_of(PAIRINGS)}
}
PROTOCOL: dict[str, Check] = {
    **dict.fromkeys(("path", "name", "split", "column", "revision", "harness"), _or_null(_text)),
    **{"source": _or_null(_one_of(TEXTS)), "from": _one_of(TEXTS), "join": _or_null(_any_text)},
    **dict.fromkeys(("documents", "windows"), _or_null(_all_or(_whole(1)))),
    **{"window": _or_null(_whole(SHORTEST)), "stride": _or_null(_whole(1)), "drawn": _or_null(_whole(1))},
    **{"stream": _or_null(_truth), "tail": _or_null(_truth), "start": _or_null(_one_of(STARTS))},
    **{"dtype": _or_null(_one_of(DTYPES)), "corpus": _text, "stated": _text, "not_reproduced": _text},
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
    return list(islice(protocol.corpus.text.documents(where), count))
