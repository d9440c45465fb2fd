"""Find data that calibration and evaluation share: a mask must not be chosen on the data that it is evaluated on.

`Samples.shared` compares the tokens of text windows and the keys of items. The documents of lm-eval's tasks have no
common format, so the words of each document are searched for in the text of the calibration data.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from pruning.calibration.item_files import Item
from pruning.calibration.samples import Samples, shared_runs
from pruning.core.errors import InputError
from pruning.evaluation import Data

RUN = 32  # words: a passage of this length counts as shared if it is in both the calibration and the evaluation data
LEAST = 4  # words: a question with fewer words is found only by its item's key
ALONE = 8  # words: a question of at least this length is found even if all its answers are uninformative
UNINFORMATIVE = {"yes", "no", "true", "false", *"abcdefgh"}  # with the letters of choices, as in MMLU

Words = tuple[str, ...]

# (digest of calibration data, digest of evaluation data) -> number of shared pieces. The numbers are cached because
# many cells use the same data.
_known: dict[tuple[str, str], int] = {}


REMEDY = "Choose another calibration.seed or other data, or allow the overlap with eval.allow_overlap=true."


def check_disjoint(calibration: Samples, data: Mapping[str, Data], remedy: str = REMEDY) -> None:
    """If calibration and evaluation share items or runs of text, raise InputError, which ends with `remedy`."""
    for metric, shared in overlaps(calibration, data).items():
        evaluated, windows = data[metric], windows_of(data[metric])
        if windows is not None:
            alike = {number for number, _ in shared_runs(windows.rows, calibration.only("text").rows)}
            what = f"text in {len(alike)} of {windows.count} windows"
        else:
            count = getattr(evaluated, "count", None)  # the documents of a task are not counted
            what = f"{shared} items" if count is None else f"{shared} of {count} items"
        raise InputError(
            f"the calibration data ({calibration.source}, {calibration.sha256[:12]}) and the data of {metric} "
            f"({evaluated.source}, {evaluated.sha256[:12]}) share {what}: a mask must not be chosen on the data that "
            f"it is judged by. {remedy}"
        )


def overlaps(calibration: Samples, data: Mapping[str, Data]) -> dict[str, int]:
    """Map each metric whose data overlap the calibration data to the number of shared pieces."""
    counts: dict[str, int] = {}
    for metric, evaluated in data.items():
        pair = (calibration.sha256, evaluated.sha256)
        if pair not in _known:
            _known[pair] = evaluated.shared(calibration)
        if _known[pair]:
            counts[metric] = _known[pair]
    return counts


def windows_of(data: Data) -> Samples | None:
    """The text windows of evaluation data: the data themselves or their prompts; None if the data are not text."""
    windows = getattr(data, "windows", data)
    return windows if isinstance(windows, Samples) and windows.kind == "text" else None


@dataclass(frozen=True)
class Document:
    """A document of a task: all texts that could be the question, the answers, and the key of its item if known."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    known: tuple[str, ...] = ()


class Haystack:
    """A search index of the words in each sample of the calibration data."""

    def __init__(self, calibration: Samples, tokenizer: Any) -> None:
        self.keys = calibration.keys
        texts = (tokenizer.decode([t for row in unit for t in row.input_ids]) for unit in calibration.units)
        self.samples = [words(text) for text in texts]
        self.spaced = [f" {' '.join(sample)} " for sample in self.samples]

    def holds(self, document: Document) -> bool:
        """Whether a sample contains the document: its question and answers, or `RUN` adjacent question words."""
        keys = {Item(question, document.answers, 0).key for question in document.questions}
        if self.keys & {*document.known, *keys}:
            return True
        answers = [w for answer in document.answers if (w := words(answer)) and not set(w) <= UNINFORMATIVE]
        return any(self._contains(words(question), answers) for question in document.questions)

    def _contains(self, question: Words, answers: Sequence[Words]) -> bool:
        if any(run in self._runs for run in _runs(question, RUN)):
            return True
        if len(question) < (LEAST if answers else ALONE):
            return False
        texts = (self.spaced[number] for number in self._beginnings.get(question[:LEAST], ()))
        return any(all(f" {' '.join(w)} " in text for w in (question, *answers)) for text in texts)

    @cached_property
    def _beginnings(self) -> Mapping[Words, set[int]]:
        numbers: dict[Words, set[int]] = defaultdict(set)
        for number, sample in enumerate(self.samples):
            for run in _runs(sample, LEAST):
                numbers[run].add(number)
        return numbers

    @cached_property
    def _runs(self) -> set[Words]:
        return {run for sample in self.samples for run in _runs(sample, RUN)}


@lru_cache(maxsize=1)
def haystack(calibration: Samples, tokenizer: Any) -> Haystack:
    """The search index of calibration data. It is cached because many tasks search it."""
    return Haystack(calibration, tokenizer)


def words(text: str) -> Words:
    """The words of a text in lower case, without spaces and punctuation."""
    return tuple(re.findall(r"\w+", text.lower()))


def _runs(sample: Words, length: int) -> list[Words]:
    return [sample[i : i + length] for i in range(len(sample) - length + 1)]
