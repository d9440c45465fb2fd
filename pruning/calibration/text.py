"""Text windows for objectives that need text: `calibration=pydoc`, `text_file`, `c4`, `both`, `mixed`, ..."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

from pruning.calibration.samples import Row, Samples, drawn
from pruning.calibration.sources import TextSource
from pruning.core.errors import InputError, check_least

SHORTEST = 8  # the minimum number of tokens of a window


def drawn_windows(
    documents: Iterable[str],
    tokenizer: Any,
    source: str,
    draw: tuple[int, int, int],
    prefix: str = "calibration",
    names: tuple[str, str] = ("samples", "length"),
    stream: bool = False,
    disjoint: bool = False,
) -> Samples:
    """Windows cut from documents. `draw` is (number of windows, length of a window in tokens, seed).

    In messages, `prefix` is the settings group, and `names` are its settings for the number and the length. With
    `stream`, only the documents that the windows need are read. If `disjoint`, draws with different seeds have no
    window in common. Raises InputError if there is too little text for the windows.
    """
    (samples, length, seed), first = draw, start_tokens(tokenizer)
    payload = length - len(first)
    needed = samples * payload
    tokens = token_ids(documents, tokenizer, needed if stream else None)
    available = len(tokens) // payload
    if available < samples:
        raise InputError(
            f"{source} is too short: it has {len(tokens)} tokens, but {samples} windows of {length} need {needed}: "
            f"lower {' or '.join(f'{prefix}.{name}' for name in names)}."
        )
    pool = f"{source} has {available} windows of {length} tokens"
    chosen = drawn(available, samples, seed, disjoint, prefix, pool)
    cuts = (tokens[i * payload : (i + 1) * payload] for i in chosen)
    return Samples("text", source, tuple(Row((*first, *cut), (1, length)) for cut in cuts), seed)


@dataclass(frozen=True)
class Text:
    """`samples` windows of `length` tokens each, drawn without overlap, from the text of a `TextSource`.

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
        TextSource.of(self).check("calibration")
        check_least("calibration", self, samples=1, length=SHORTEST, seed=0)
        if self.stream and self.disjoint:
            raise InputError(
                "calibration.stream=true takes the first windows of a shuffled data set, so draws can overlap: set "
                "calibration.stream=false, or calibration.disjoint=false."
            )

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """Draw the windows. Raises InputError if the source is too short for them."""
        documents, source = TextSource.of(self).documents(prefix), self.path or self.source
        asked, once = (self.samples, self.length, self.seed), self.disjoint
        return drawn_windows(documents, tokenizer, source, asked, prefix, stream=self.stream, disjoint=once)


def start_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that a tokenizer puts before every text: BOS, or nothing."""
    bos = tokenizer.bos_token_id
    ids = tokenizer("a").input_ids
    return (bos,) if bos is not None and ids and ids[0] == bos else ()


def token_ids(documents: Iterable[str], tokenizer: Any, most: int | None) -> list[int]:
    """The token ids of the documents, concatenated. If `most` is given, only the first `most` ids are returned."""
    ids: list[int] = []
    remaining = iter(documents)
    while batch := list(islice(remaining, 64)):
        for document in tokenizer(batch, add_special_tokens=False, verbose=False).input_ids:
            ids.extend(document)
        if most is not None and len(ids) >= most:
            return ids[:most]
    return ids


# Calibrations that combine two others.

Unit = tuple[Row, ...]


@dataclass(frozen=True)
class Both:
    """The samples of a text calibration and of an items calibration, interleaved, for mixed objectives.

    Windows and items alternate in proportion to their numbers, beginning with one of each. So the first samples,
    which are all that some races and search stages use, are of both kinds.
    """

    text: Any
    items: Any

    kind: ClassVar[str] = "both"

    def __post_init__(self) -> None:
        _check_kinds(text=(self.text, "text"), items=(self.items, "items"))

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """Draw the windows and the items. Raises InputError if one of the two sources has too few."""
        text: Samples = self.text.draw(tokenizer, f"{prefix}.text")
        items: Samples = self.items.draw(tokenizer, f"{prefix}.items")
        return replace(_alternating(text, items), kind="both", keys=items.keys)


@dataclass(frozen=True)
class Mixed:
    """`samples` windows of `length` tokens, half from each of two texts; if the number is odd, one more from `first`.

    The text calibrations `first` and `second` only say where the texts are; the `samples`, `length`, `seed` and
    `disjoint` of this class replace theirs. Windows of the two texts alternate. On either text, a linear map fitted
    on this mixture is nearly as good as a map fitted on that text alone (docs/objectives.md).
    """

    first: Any
    second: Any
    samples: int
    length: int
    seed: int
    disjoint: bool = False

    kind: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        _check_kinds(first=(self.first, "text"), second=(self.second, "text"))
        check_least("calibration", self, samples=2, length=SHORTEST, seed=0)  # one window for each text

    def draw(self, tokenizer: Any, prefix: str = "calibration") -> Samples:
        """Draw the windows. Raises InputError if a text is too short or if the two texts share runs of tokens."""
        shared = {"length": self.length, "seed": self.seed, "disjoint": self.disjoint}
        half = self.samples // 2
        first: Samples = replace(self.first, samples=self.samples - half, **shared).draw(tokenizer, prefix)
        second: Samples = replace(self.second, samples=half, **shared).draw(tokenizer, prefix)
        if runs := first.shared(second):
            raise InputError(
                f"{prefix}.first ({first.source}) and {prefix}.second ({second.source}) share {runs} runs of "
                "tokens: choose two different texts, or a calibration of one text."
            )
        return _alternating(first, second)


def _check_kinds(**parts: tuple[Any, str]) -> None:
    """Raise InputError unless each (calibration, kind) in `parts` has a calibration of this kind."""
    for name, (part, kind) in parts.items():
        if part.kind != kind:
            raise InputError(f"calibration.{name} is a calibration of {part.kind}: choose one of {kind}.")


def _alternating(first: Samples, second: Samples) -> Samples:
    """The samples of two draws, interleaved; each row names its source."""
    units = interleaved(first.labelled().units, second.labelled().units)
    rows = tuple(row for unit in units for row in unit)
    return Samples("text", f"{first.source} + {second.source}", rows, first.seed)


def interleaved(text: Sequence[Unit], items: Sequence[Unit]) -> list[Unit]:
    """Windows and items in one list, which begins with one of each kind and spreads each kind evenly."""
    ranked = [(n / len(text), 0, unit) for n, unit in enumerate(text)]
    ranked += [(n / len(items), 1, unit) for n, unit in enumerate(items)]
    return [unit for *_, unit in sorted(ranked, key=lambda entry: entry[:2])]
