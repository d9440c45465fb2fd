"""The types of what is read from the files of published masks."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.core.mask import Mask
from pruning.published.protocol import Protocol

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
