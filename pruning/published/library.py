"""Read the files of published masks, and choose among their entries.

Each file in `papers/` describes one paper: its sources, the protocols of its numbers, and its masks. The
files are part of this program, and tests check each value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pruning.calibration.samples import Samples
from pruning.calibration.sources import embedded_text
from pruning.calibration.text import drawn_windows
from pruning.core.errors import InputError, near_names
from pruning.core.mask import Mask
from pruning.evaluation.corpora import Corpus

FOLDER = Path(__file__).parent
PAIRINGS = {
    "printed_together": "one paper prints the mask and the number",
    "same_authors": "the authors' repository has the mask, their paper the number",
    "inferred": "the mask and the number are from different sources",
}


@dataclass(frozen=True)
class Protocol(Corpus):
    """All settings that can change a perplexity, except the model and the mask.

    The settings are a corpus with its windows, and the precision of the weights. If `drawn` is a number, that many
    windows are drawn at random, as in `eval=heldout`; if it is None, the windows are taken in order.
    `harness` is the name of the measuring program; it has no effect.
    """

    drawn: int | None = None
    dtype: str = "bfloat16"
    harness: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Reset settings without effect to their defaults, so that equivalent protocols compare equal."""
        if self.drawn is not None:
            plain: dict[str, Any] = {"stride": None, "windows": None, "start": "window", "tail": True}
        else:
            plain = {"stride": None} if self.stride == self.window else {}
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def draw(self, tokenizer: Any, where: str, limit: int | None = None) -> Samples:
        """The windows; at most `limit` windows if `limit` is given. Raises the errors of `Corpus.draw`."""
        if self.drawn is None:
            return super().draw(tokenizer, where, limit)
        text, samples = embedded_text(self.source, "heldout"), min(self.drawn, limit or self.drawn)
        return drawn_windows(text, tokenizer, self.source, (samples, self.window, 0), where)

    def differences(self, other: Protocol) -> str:
        """The settings in which two protocols differ, such as `window 2048 -> 4096, start window -> none`."""
        compared = [one.name for one in fields(self) if one.compare]
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in compared}
        return ", ".join(f"{name} {one} -> {two}" for name, (one, two) in pairs.items() if one != two)


# The contents of the files.


@dataclass(frozen=True)
class PrintedSource:
    """Where a mask or number is printed: the document's address, the place in it, and which copy was read."""

    address: str
    place: str
    read: str


@dataclass(frozen=True)
class ModelFacts:
    """A model for which masks were published: its location and its number of blocks."""

    name: str
    source: str
    path: str
    blocks: int


@dataclass(frozen=True)
class Theirs:
    """The protocol of a published number. `unknown` lists the settings that its source does not state.

    If `not_reproduced` is not None, it says why the protocol cannot be followed here.
    """

    corpus: str
    protocol: Protocol
    unknown: tuple[str, ...] = ()
    not_reproduced: str | None = None


@dataclass(frozen=True)
class PublishedNumber:
    """A published perplexity; `pairing` (see `PAIRINGS`) says how its source relates to the source of the mask."""

    value: float
    theirs: Theirs
    source: PrintedSource
    pairing: str


@dataclass(frozen=True)
class PublishedMask:
    """A model's published mask and numbers; `paper` is the name of the paper's file.

    `stated` is the number of removed blocks that the source states; None if it does not state one.
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
    """The entries whose name, paper or model is in `only`, in the order of the files; all if `only` is None.

    If a name is unknown, raises InputError with similar names.
    """
    if only is None:
        return entries()
    named = [(entry, {entry.name, entry.paper, entry.model.name}) for entry in entries()]
    known = set().union(*(names for _, names in named))
    for name in only:
        if name not in known:
            raise InputError(
                f"--only: unknown published mask, paper or model '{name}'.{near_names(name, sorted(known))} "
                "--dry-run lists all masks."
            )
    return tuple(entry for entry, names in named if names & {*only})


@cache
def models() -> Mapping[str, ModelFacts]:
    """The models of published masks, by their names."""
    return {name: ModelFacts(name, **facts) for name, facts in _read(FOLDER / "models.yaml").items()}


def _entry(
    paper: str, raw: Mapping[str, Any], sources: Mapping[str, PrintedSource], protocols: Mapping[str, Theirs]
) -> PublishedMask:
    numbers = tuple(
        PublishedNumber(
            float(one["value"]), protocols[one["protocol"]], sources[one["source"]], one["pairing"]
        )
        for one in raw.get("numbers", ())
    )
    model, removed = models()[raw["model"]], raw["removed"]
    mask = Mask.parse(model.blocks, removed if isinstance(removed, str) else " ".join(map(str, removed)))
    known = {name: value for name, value in raw.items() if name not in ("removed", "stated")}
    known |= {"model": model, "mask": mask, "mask_source": sources[raw["mask"]], "numbers": numbers}
    return PublishedMask(paper=paper, stated=raw.get("stated", {}).get("blocks"), **known)


def theirs(corpus: str, not_reproduced: str | None = None, **settings: Any) -> Theirs:
    """The protocol that a file describes.

    A null setting is unknown and gets the default of `Protocol`, except `join` and `name`, for which null is a value.
    For `documents` and `windows`, `all` means no limit.
    """
    settings.pop("stated", None)  # where the source states the protocol: only for readers of the file
    missing = tuple(
        name for name, value in settings.items() if value is None and name not in ("join", "name")
    )
    known = {name: value for name, value in settings.items() if name not in missing}
    known |= {name: None for name in ("documents", "windows") if known.get(name) == "all"}
    return Theirs(corpus, Protocol(**known), missing, not_reproduced)


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
