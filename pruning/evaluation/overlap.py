"""Whether calibration and evaluation data share anything: a mask must not be chosen on what it is judged by.

Text windows and items are compared as `Samples.shared` does it, token by token and key by key. Documents of a task
come in as many forms as there are tasks, so their words are looked for in the calibration data's text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pruning.calibration.records import Item
from pruning.calibration.samples import Samples
from pruning.core.errors import InputError
from pruning.evaluation import Data

RUN = 32  # words: a passage of this length in both sets is shared
LEAST = 4  # words below which a question is told from others by its item's key only
ALONE = 8  # words from which it is told without its answers, where these say nothing
SAY_NOTHING = {"yes", "no", "true", "false"}

Words = tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """A document of a task: the texts that may be its question, and its answers."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]

    def keys(self) -> set[str]:
        """What items of the same question and answers are known by."""
        return {Item(question, self.answers, 0).key for question in self.questions}


class Haystack:
    """The words of calibration data, sample by sample, made to be searched."""

    def __init__(self, calibration: Samples, tokenizer: Any) -> None:
        self.keys = calibration.keys
        texts = (tokenizer.decode([t for row in unit for t in row.input_ids]) for unit in calibration.units)
        self.samples = [words(text) for text in texts]
        self.spaced = [f" {' '.join(sample)} " for sample in self.samples]

    def holds(self, document: Document) -> bool:
        """Whether some sample has the document's question with all its answers, or a long run of its words."""
        if self.keys & document.keys():
            return True
        answers = [w for answer in document.answers if (w := words(answer)) and not set(w) <= SAY_NOTHING]
        return any(self._asks(words(question), answers) for question in document.questions)

    def _asks(self, question: Words, answers: Sequence[Words]) -> bool:
        if any(run in self._runs for run in _runs(question, RUN)):
            return True
        if len(question) < (LEAST if answers else ALONE):
            return False
        texts = (self.spaced[number] for number in self._beginnings.get(question[:LEAST], ()))
        return any(all(f" {' '.join(w)} " in text for w in (question, *answers)) for text in texts)

    @cached_property
    def _beginnings(self) -> Mapping[Words, set[int]]:
        found: dict[Words, set[int]] = defaultdict(set)
        for number, sample in enumerate(self.samples):
            for run in _runs(sample, LEAST):
                found[run].add(number)
        return found

    @cached_property
    def _runs(self) -> set[Words]:
        return {run for sample in self.samples for run in _runs(sample, RUN)}


_haystacks: dict[tuple[str, int], Haystack] = {}


def haystack(calibration: Samples, tokenizer: Any) -> Haystack:
    """The words of calibration data; those that were asked for last are kept, since many tasks look into them."""
    key = (calibration.sha256, id(tokenizer))
    if key not in _haystacks:
        _haystacks.clear()
        _haystacks[key] = Haystack(calibration, tokenizer)
    return _haystacks[key]


def words(text: str) -> Words:
    """The words of a text, however it is spaced, spelt or punctuated."""
    return tuple(re.findall(r"\w+", text.lower()))


def _runs(sample: Words, length: int) -> list[Words]:
    return [sample[i : i + length] for i in range(len(sample) - length + 1)]


_known: dict[tuple[str, str], int] = {}  # by both digests: cells of a grid share their data


def overlaps(calibration: Samples, data: Mapping[str, Data]) -> dict[str, int]:
    """The metrics whose data the calibration shares, and how many pieces of them."""
    counts: dict[str, int] = {}
    for metric, one in data.items():
        pair = (calibration.sha256, one.sha256)
        if pair not in _known:
            _known[pair] = one.shared(calibration)
        if _known[pair]:
            counts[metric] = _known[pair]
    return counts


def check_disjoint(calibration: Samples, data: Mapping[str, Data]) -> None:
    """Raise InputError where calibration and evaluation share items or runs of text."""
    for metric, shared in overlaps(calibration, data).items():
        one = data[metric]
        unit = "runs of tokens" if isinstance(one, Samples) and one.kind == "text" else "items"
        raise InputError(
            f"the calibration data ({calibration.source}, {calibration.sha256[:12]}) and the data of {metric} "
            f"({one.source}, {one.sha256[:12]}) share {shared} {unit}: a mask must not be chosen on the data that it "
            "is judged by. Choose other calibration data, or insist with eval.allow_overlap=true."
        )
